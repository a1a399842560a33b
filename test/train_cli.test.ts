import assert from 'node:assert/strict'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import { readMetrics } from '../src/run/read.ts'
import { isValidation } from '../src/run/records.ts'
import { runCli } from './cli.ts'
import { configFile, testFolder } from './training.ts'

const folder = testFolder()

/** Runs a command that must succeed silently on stderr; returns its output. */
function prints(...args: string[]): string {
  const { status, stdout, stderr } = runCli(args, { cwd: folder })
  assert.deepEqual([status, stderr], [0, ''])
  return stdout
}

describe('train --dry-run', () => {
  it('of tiny says what it costs and which layers are quantised', () => {
    const text = prints('train', 'tiny', '--dry-run')
    const described = JSON.parse(prints('train', 'tiny', '--dry-run', '--json'))
    assert.equal(described.linears.length, 16)
    assert.deepEqual(described.formats, { nvfp4: 14, bf16: 2 })
    const { parameters, memory, kinds } = described
    assert.equal(memory.weights, 4 * parameters)
    assert.equal(
      kinds.reduce((sum: number, { parameters }: { parameters: number }) => sum + parameters, 0),
      parameters,
    )
    for (const line of [
      /^tiny: M-M-M\*M-, recipe nvfp4$/m,
      new RegExp(`^all +${parameters.toLocaleString('en-US')}$`, 'm'),
      /^layers\.0\.mixer\.in_proj +\d+ x 128 +nvfp4$/m,
      /^layers\.7\.mixer\.down_proj +128 x 512 +bf16$/m,
      /^formats +14 of 16 linear layers in nvfp4; 2 in bf16$/m,
      /^training +[\d,]+ steps of 2,048 tokens /m,
      /^computing +\S+ MFLOP per token: /m,
      /^memory +weights \S+ MB, gradients /m,
      /^activations +.*in BF16 they would take .*: \S+ MB saved/m,
    ])
      assert.match(text, line)
  })

  it('of the 12B model counts exactly, and builds nothing', () => {
    const text = prints('train', 'nemotron-nano-12b', '--dry-run')
    assert.match(text, /^all +12,310,001,152$/m)
    assert.match(text, /^formats +20 of 124 linear layers in bf16; 104 in nvfp4$/m)
    assert.equal(JSON.parse(prints('train', 'nemotron-nano-12b', '--dry-run', '--json')).parameters, 12_310_001_152)
  })
})

describe('a finished run', () => {
  const run = join(folder, 'run')
  const output = { text: '' }
  before(() => {
    // Kernels that are not built yet are announced on stderr: here, not where the tests look.
    const { status, stdout } = runCli(['train', configFile(folder, 'steps=20'), 'seed=3', '--run', run], {
      cwd: folder,
    })
    assert.equal(status, 0)
    output.text = stdout
  })

  it('tells its validation loss, its speed, a sample and what to do next', () => {
    const { text } = output
    assert.match(text, /^small-test: 37\.\dk parameters \(M-\*-\), recipe nvfp4/)
    assert.match(text, /\ntext: \S+\.txt: \S+ tokens and \S+ held out\n/)
    assert.match(text, /\nvalidation loss: \d\.\d{4} nats per token, \d\.\d{4} bits per byte\n/)
    assert.match(text, /\nspeed: \S+ tokens\/s\n/)
    assert.match(text, /\nsample: /)
    assert.ok(
      text.includes(`halfbyte sample ${run} --prompt`) && text.includes(`halfbyte validate ${run} --recipe bf16`),
    )
    assert.ok(text.includes(`halfbyte train ${join(folder, 'small.json')} seed=3 recipe=bf16`), text)
  })

  it('tells how to train as it did in bf16 where it was resumed, too', () => {
    const resumed = join(folder, 'resumed')
    cpSync(run, resumed, { recursive: true })
    rmSync(join(resumed, 'checkpoints', '20'), { recursive: true })
    assert.match(prints('resume', resumed), / train tiny seed=3 steps=20 .*'model\.pattern=M-\*-'.* recipe=bf16 /)
  })

  it('has the validation loss that it recorded, and another in bf16, in which weights and activations are not quantised', () => {
    const recorded = [...readMetrics(run)].filter(isValidation)
    assert.deepEqual(
      recorded.map(({ step }) => step),
      [10, 20],
    )
    const validate = (...args: string[]) => JSON.parse(prints('validate', run, '--json', ...args))
    const own = validate()
    assert.deepEqual([own.step, own.recipe, own.validation_loss], [20, 'nvfp4', recorded[1]!.validation_loss])
    const bf16 = validate('--recipe', 'bf16')
    assert.notEqual(bf16.validation_loss, own.validation_loss)
    assert.ok(Math.abs(bf16.validation_loss - own.validation_loss) < 0.1)
    const older = validate('--step', '16')
    assert.equal(older.step, 16)
    assert.notEqual(older.validation_loss, own.validation_loss)
  })

  it('samples the same text for the same seed', () => {
    const sample = (...args: string[]) => prints('sample', run, '--prompt', 'the quick ', '--length', '40', ...args)
    const first = sample()
    assert.ok(first.startsWith('the quick '))
    assert.equal(sample(), first)
    assert.notEqual(sample('--seed', '2'), first)
    const greedy = JSON.parse(sample('--temperature', '0', '--seed', '3', '--json'))
    assert.deepEqual([greedy.step, greedy.prompt], [20, 'the quick '])
    assert.equal(JSON.parse(sample('--temperature', '0', '--seed', '4', '--json')).text, greedy.text)
  })

  it('is sampled where the text that it was trained on is gone, which validating wants', () => {
    const moved = join(folder, 'without-text')
    cpSync(run, moved, { recursive: true })
    const config = join(moved, 'config.json')
    const stored = JSON.parse(readFileSync(config, 'utf8'))
    stored.data.files = join(folder, 'gone.txt')
    writeFileSync(config, JSON.stringify(stored))
    const drawn = ['--prompt', 'the quick ', '--length', '10']
    assert.equal(prints('sample', moved, ...drawn), prints('sample', run, ...drawn))
    assert.equal(JSON.parse(prints('generate', moved, ...drawn, '--json')).prompt, 'the quick ')
    const { status, stderr } = runCli(['validate', moved], { cwd: folder })
    assert.equal(status, 1)
    assert.match(stderr, /gone\.txt/)
  })

  it('is read without being changed, from a folder that was moved', () => {
    const moved = join(folder, 'moved')
    cpSync(run, moved, { recursive: true })
    const files = ['config.json', 'metrics.jsonl']
    const before = files.map(file => readFileSync(join(moved, file), 'utf8'))
    prints('validate', moved)
    prints('sample', moved, '--length', '2')
    assert.deepEqual(
      files.map(file => readFileSync(join(moved, file), 'utf8')),
      before,
    )
  })
})
