import assert from 'node:assert/strict'
import { appendFileSync, cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import type { Decomposition, DecompositionRow } from '../src/analysis/decompose.ts'
import type { Sensitivity } from '../src/analysis/sensitivity.ts'
import { execute } from '../src/cli/main.ts'
import { readCheckpoint } from '../src/run/checkpoint.ts'
import { readMetrics, readRun } from '../src/run/read.ts'
import { isTraining } from '../src/run/records.ts'
import { runCli } from './cli.ts'
import { configFile, openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()
const run = (name: string): string => join(folder, name)

/** Runs a command in this process. What the test runner writes meanwhile, in bytes, goes its way. */
async function command(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const said = { stdout: '', stderr: '' }
  const names = ['stdout', 'stderr'] as const
  const writes = names.map(name => process[name].write)
  for (const [i, name] of names.entries())
    process[name].write = ((text: string | Uint8Array) => {
      if (typeof text !== 'string') return writes[i]!.call(process[name], text)
      said[name] += text
      return true
    }) as typeof process.stdout.write
  try {
    const code = await execute(args)
    return { code, ...said }
  } finally {
    for (const [i, name] of names.entries()) process[name].write = writes[i]!
  }
}

async function works(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await command(...args)
  assert.equal(code, 0, stderr)
  return stdout
}

const json = async <T>(...args: string[]): Promise<T> => JSON.parse(await works(...args, '--json')) as T

async function refuses(args: readonly string[], sentence: RegExp, exitCode: 1 | 2): Promise<void> {
  const { code, stderr } = await command(...args)
  assert.match(stderr, /^halfbyte: [^\n]+\n$/)
  assert.match(stderr, sentence)
  assert.equal(code, exitCode)
}

const train = (name: string, ...overrides: string[]) =>
  works('train', configFile(folder, 'validation.every=0', ...overrides), '--run', run(name))
const row = ({ rows }: Decomposition, name: string): DecompositionRow => {
  const found = rows.find(candidate => candidate.name === name)
  assert.ok(found, `no row ${name} among ${rows.map(({ name }) => name).join(', ')}`)
  return found
}

before(async () => {
  // Kernels that are not built yet are announced on stderr: here, not in what the tests read.
  const args = ['train', configFile(folder, 'validation.every=0', 'steps=12'), '--run', run('nvfp4')]
  assert.equal(runCli(args).status, 0)
})

describe('halfbyte decompose', () => {
  it('takes a recipe apart, and writes what it finds into the run', async () => {
    const found = await json<Decomposition>('decompose', run('nvfp4'), '--draws', '4')
    assert.deepEqual(JSON.parse(readFileSync(join(run('nvfp4'), 'decomposition.json'), 'utf8')), found)
    const loss = async (recipe: string) =>
      (await json<{ validation_loss: number }>('validate', run('nvfp4'), '--recipe', recipe)).validation_loss
    assert.equal(row(found, 'unquantised').validation_loss, await loss('bf16'))
    assert.equal(row(found, 'nvfp4').validation_loss, await loss('nvfp4'))
    assert.equal(row(found, 'without square scaling').validation_loss, await loss('nvfp4-no-2d'))
    assert.equal(row(found, 'fprop alone').validation_loss, await loss('nvfp4'))
    assert.equal(row(found, 'wgrad alone').relative_difference, 0)

    const nvfp4 = row(found, 'nvfp4')
    const difference =
      (row(found, 'unquantised').validation_loss! - nvfp4.validation_loss!) / row(found, 'unquantised').validation_loss!
    assert.ok(Math.abs(nvfp4.relative_difference! - difference) < 1e-12)
    assert.equal(nvfp4.against_recipe, undefined)
    const square = row(found, 'without square scaling')
    const worth = (nvfp4.validation_loss! - square.validation_loss!) / nvfp4.validation_loss!
    assert.ok(Math.abs(square.against_recipe!.relative_difference - worth) < 1e-12 && square.against_recipe!.interval)
    const { cosine, bias, variance, error, draws, layers } = nvfp4.gradient!
    assert.ok(cosine > 0.9 && cosine < 0.9999 && bias > 0 && variance > 0 && draws === 4)
    assert.ok(Math.abs(error ** 2 - bias ** 2 - variance) < 1e-12)
    assert.equal(layers.length, 8)
    assert.ok(nvfp4.gradient_with_fprop!.cosine < cosine)
    assert.equal(row(found, 'fprop alone').gradient, null)
    assert.deepEqual(
      [
        row(found, 'without stochastic rounding').gradient!.draws,
        row(found, 'without stochastic rounding').gradient!.variance,
      ],
      [1, 0],
    )
    // dgrad changes the gradients of the layers before it, wgrad of each its own; the last block is in BF16.
    const errorsOf = (name: string) => row(found, name).gradient!.layers.map(layer => layer.error)
    assert.deepEqual(errorsOf('wgrad alone').slice(6), [0, 0])
    assert.deepEqual(errorsOf('dgrad alone').slice(5), [0, 0, 0])
    assert.ok(Math.min(...errorsOf('wgrad alone').slice(0, 6), ...errorsOf('dgrad alone').slice(0, 4)) > 0.01)
    assert.ok(Math.min(...errorsOf('without high-precision blocks')) > 0.01)
  })

  it('trains short branches on the batches that the run had', async () => {
    const found = await json<Decomposition>(
      'decompose',
      run('nvfp4'),
      '--step',
      '8',
      '--steps',
      '4',
      '--draws',
      '1',
      '--out',
      run('branched'),
    )
    assert.ok(existsSync(join(run('branched'), 'decomposition.json')))
    const losses = [...readMetrics(run('nvfp4'))].flatMap(record => (isTraining(record) ? [record.loss] : []))
    assert.deepEqual(row(found, 'nvfp4').branch!.losses, losses.slice(8))
    await works('branch', run('nvfp4'), '--at', '8', '--recipe', 'nvfp4-no-rht', '--run', run('no-rht'))
    const unrotated = [...readMetrics(run('no-rht'))]
    assert.deepEqual(
      row(found, 'without Hadamard rotation').branch!.losses,
      unrotated.flatMap(record => (isTraining(record) ? [record.loss] : [])).slice(8),
    )
    assert.equal(row(found, 'without Hadamard rotation').branch!.validation_loss, unrotated.at(-1)!.validation_loss)
    const { relative_difference: difference, interval } = row(found, 'nvfp4').branch!
    assert.ok(interval![0] <= difference! && difference! <= interval![1])
    assert.equal(row(found, 'unquantised').branch!.relative_difference, undefined)
  })

  it('prints tables, and what the figures are', async () => {
    const text = await works('decompose', run('nvfp4'), '--draws', '1', '--step', '8', '--steps', '2', '--batches', '1')
    assert.match(text, /^ +loss +difference +interval +from recipe +cosine +bias +variance +with fprop$/m)
    assert.match(text, /^wgrad alone +\d\.\d{4} +0\.00 % +[-+]\d\.\d\d % +0\.\d{4} +[\d.]+ % +0\.00 %$/m)
    assert.match(text, /^2 steps on +training loss +loss +difference +interval +from recipe$/m)
    assert.match(text, /^layers\.0\.mixer\.in_proj( +[\d.]+ %){5}$/m)
    assert.match(text, /nats per token on 64 tokens held out/)
  })

  for (const [recipe, ...overrides] of [['mxfp4'], ['mxfp8'], ['fp8', 'model.pattern=M-*-M-']] as const)
    it(`takes ${recipe} apart as well`, async () => {
      await train(recipe, `recipe=${recipe}`, 'steps=4', ...overrides)
      const found = await json<Decomposition>('decompose', run(recipe), '--draws', '2', '--batches', '1')
      assert.equal(found.rows.length, 9)
      for (const { name, left_out: leftOut, validation_loss: loss, gradient } of found.rows) {
        assert.equal(leftOut, null)
        assert.ok(loss! > 0)
        if (gradient)
          assert.ok(gradient.cosine > 0.9 && gradient.error > 0 && gradient.error < 0.5, `${name} ${gradient.error}`)
      }
      assert.ok(row(found, recipe === 'mxfp4' ? 'without Hadamard rotation' : 'with Hadamard rotation').gradient)
    })

  it('leaves out what the model’s sizes do not allow', async () => {
    await train('odd', 'model.pattern=M*-', 'model.ffn=88', 'steps=2')
    const found = await json<Decomposition>('decompose', run('odd'), '--draws', '1', '--batches', '1')
    const why = /^layers\.2\.mixer\.up_proj: 88 output features are not a multiple of 16/
    assert.match(row(found, 'without high-precision blocks').left_out!, why)
    assert.equal(row(found, 'without high-precision blocks').validation_loss, null)
    assert.match(
      await works('decompose', run('odd'), '--draws', '1', '--batches', '1'),
      /^left out: without high-precision/m,
    )
    await refuses(
      ['sensitivity', run('odd')],
      /odd cannot be ranked with all of its layers quantised: layers\.2\.mixer/,
      1,
    )
  })
})

describe('halfbyte sensitivity', () => {
  it('ranks all layers, with those that the recipe keeps, and writes a policy that training obeys', async () => {
    const out = run('ranked')
    const found = await json<
      Sensitivity & { policy: { kept: string[]; share: number; parameter_share: number; path: string } }
    >('sensitivity', run('nvfp4'), '--keep', '25%', '--draws', '2', '--out', out)
    const { layers, policy, last_blocks: last } = found
    assert.deepEqual(JSON.parse(readFileSync(join(out, 'sensitivity.json'), 'utf8')), found)
    assert.deepEqual(
      layers.map(({ rank }) => rank),
      [1, 2, 3, 4, 5, 6, 7, 8],
    )
    assert.deepEqual(
      layers.filter(({ high_in_run: high }) => high).map(({ block }) => block),
      [3, 3],
    )
    for (const { linear, weights, activations, gradients, wgrad, loss } of layers)
      for (const value of [weights, activations, gradients, wgrad])
        assert.ok(value! > 0.02 && value! < 0.3 && loss!.interval, `${linear}: ${value}`)
    // The same by rules of a config: all layers quantised, then all but one.
    const { linear, loss } = layers.find(({ block }) => block === 3)!
    const lossUnder = async (...rules: string[]) => {
      const trainer = await openTrainer(smallConfig(folder, `rules=[{where: all, use: nvfp4}${rules.join('')}]`))
      trainer.restoreWeights(readCheckpoint(run('nvfp4'), 12))
      const { loss } = trainer.validate()
      trainer.model.backend.close()
      return loss
    }
    const [all, others] = [await lossUnder(), await lossUnder(`, {where: {name: ${linear}}, use: bf16}`)]
    assert.equal(found.validation.loss, all)
    assert.ok(Math.abs(loss!.relative_difference - (all - others) / all) < 1e-12)

    assert.deepEqual([policy.kept.length, policy.share], [2, 0.25])
    assert.deepEqual(
      policy.kept,
      layers.slice(0, 2).map(({ linear }) => linear),
    )
    const parameters = layers.reduce((sum, layer) => sum + layer.parameters, 0)
    assert.equal(policy.parameter_share, (layers[0]!.parameters + layers[1]!.parameters) / parameters)
    assert.deepEqual([last.blocks, last.of_blocks, last.linears, last.expected], [1, 4, 2, 0.5])

    await works(
      'train',
      configFile(folder, 'steps=2', 'validation.every=0'),
      '--policy',
      policy.path,
      '--run',
      run('obeys'),
    )
    const { linears } = await json<{ linears: { name: string; format: string }[] }>(
      'train',
      configFile(folder),
      '--dry-run',
      '--policy',
      policy.path,
    )
    assert.deepEqual(
      linears
        .filter(({ format }) => format === 'bf16')
        .map(({ name }) => name)
        .sort(),
      [...policy.kept].sort(),
    )
    assert.equal(
      readRun(run('obeys')).config.rules.length,
      policy.kept.length + 2 - policy.kept.filter(name => name.startsWith('layers.3')).length,
    )
    const again = await json<Sensitivity>('sensitivity', run('obeys'), '--batches', '1', '--draws', '1', '--out', out)
    assert.deepEqual(
      again.layers
        .filter(({ high_in_run: high }) => high)
        .map(({ linear }) => linear)
        .sort(),
      [...policy.kept].sort(),
    )
  })

  it('says what it keeps, and whether the last blocks are the most sensitive', async () => {
    const text = await works(
      'sensitivity',
      run('nvfp4'),
      '--keep',
      '3',
      '--by',
      'wgrad',
      '--draws',
      '1',
      '--batches',
      '1',
      '--out',
      run('told'),
    )
    assert.match(text, /^1 {2}layers\..* kept/m)
    assert.match(
      text,
      /^The last 1 of 4 blocks has 2 linear layers; \d of them (is|are) among the 2 most sensitive by wgrad \(0\.5 in a random order\)\.$/m,
    )
    assert.match(
      text,
      /keeps 3 of 8 linear layers in high precision: 37\.5 % of them, \d+\.\d % of their parameters\.$/m,
    )
    assert.match(
      readFileSync(join(run('told'), 'policy.yaml'), 'utf8'),
      /^# The 3 of 8 linear layers .*\n(# .*\n)+rules:\n( {2}- \{ where: \{name: "layers\.\d\.mixer\.\w+"\}, use: (bf16|nvfp4) \}\n)+$/,
    )
    assert.deepEqual(readdirSync(run('told')).sort(), ['policy.yaml', 'sensitivity.json'])
  })
})

describe('both', () => {
  const both = ['decompose', 'sensitivity'] as const

  it('refuse a run that quantises nothing, has no checkpoint, has diverged, or is none', async () => {
    await train('bf16', 'recipe=bf16', 'steps=2')
    cpSync(join(run('nvfp4'), 'config.json'), join(run('fresh'), 'config.json'))
    await train('spoilt', 'steps=8')
    cpSync(run('spoilt'), run('diverged'), { recursive: true, filter: path => !path.endsWith('/8') })
    appendFileSync(
      join(run('diverged'), 'events.jsonl'),
      '{"step":7,"event":"non_finite","reason":"the loss is NaN"}\n',
    )
    for (const name of both) {
      await refuses([name, run('bf16')], /bf16: recipe bf16 quantises nothing at step 2, so there is nothing to /, 1)
      await refuses([name, run('fresh')], /fresh has no checkpoint yet$/m, 1)
      await refuses([name, run('nowhere')], /nowhere is not a run directory: it does not exist$/m, 1)
      await refuses(
        [name, run('diverged')],
        /diverged at step 7 \(the loss is NaN\); to look at it before, name one of its checkpoints with --step: 4$/m,
        1,
      )
      await refuses([name, run('nvfp4'), '--step', '5'], /has no checkpoint of step 5; there are 8, 12$/m, 1)
      await refuses([name, run('nvfp4'), '--draws', '0'], /found 0, wanted a whole number from 1/, 2)
    }
    await works('decompose', run('diverged'), '--step', '4', '--draws', '1', '--batches', '1')
  })

  it('refuse numbers out of range', async () => {
    for (const keep of ['0', '9', '1.5', '0%', '101%', 'all', '-1%'])
      await refuses(
        ['sensitivity', run('nvfp4'), `--keep=${keep}`],
        /--keep: found .*, wanted a share such as 15%, above 0 and at most 100, or a whole number, 1 to 8, of the model's 8 /,
        2,
      )
    await refuses(
      ['decompose', run('nvfp4'), '--steps', '5'],
      /--steps: found 5, but the checkpoint is of step 12 and the run ends at 12; name an earlier one with --step \(8\)$/m,
      2,
    )
    await refuses(['sensitivity', run('nvfp4'), '--by', 'luck'], /--by: found "luck", wanted one of score, /, 2)
  })
})
