import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { type Comparison, compare, readComparison, writeComparison } from '../src/compare/comparison.ts'
import { differenceCurve } from '../src/compare/pairs.ts'
import { readComparedRun } from '../src/compare/runs.ts'
import { suites } from '../src/compare/suites.ts'
import { UserError } from '../src/config/errors.ts'
import { recipes } from '../src/recipes/recipes.ts'
import { readMetrics } from '../src/run/read.ts'
import { type Made, makeRun as makeRunIn } from './made_runs.ts'
import { testFolder } from './training.ts'

const folder = testFolder()
let runs = 0

const makeRun = (made: Made): string => makeRunIn(folder, `made-${++runs}`, made)

const compareDirectories = (directories: readonly string[], baseline: string, order?: string[][]): Comparison => {
  const arms = directories.map(directory => {
    const read = readComparedRun(directory)
    const { recipe, seed, steps } = read.config
    return { recipe, seed, steps, run: directory, read }
  })
  return compare({ title: 'test', command: 'none', baseline, arms, ...(order && { order }) })
}

const near = (found: number, wanted: number) => assert.ok(Math.abs(found - wanted) < 1e-9, `${found}, wanted ${wanted}`)

describe('a comparison', () => {
  it('has arms and pairs with the paper’s relative difference, spread, interval and speed', () => {
    const directories = [1, 2, 3].flatMap(seed => [
      makeRun({ recipe: 'bf16', seed, loss: step => 4 - step / 10 }),
      makeRun({ recipe: 'nvfp4', seed, loss: step => (4 - step / 10) * (1 + 0.01 * seed), speed: 2000 }),
    ])
    const { arms, pairs, tokens, seeds, window } = compareDirectories(directories, 'bf16')
    assert.deepEqual([tokens, seeds, window], [2560, [1, 2, 3], 1])
    assert.equal(arms.length, 6)
    assert.deepEqual(arms.map(({ recipe, seed, status }) => [recipe, seed, status]).slice(0, 2), [
      ['bf16', 1, 'finished'],
      ['nvfp4', 1, 'finished'],
    ])
    assert.deepEqual([arms[0]!.loss, arms[0]!.validation_loss, arms[0]!.tokens_per_second], [2, 3, 1000])
    const [pair] = pairs
    assert.deepEqual([pairs.length, pair!.baseline, pair!.recipe, pair!.resolved], [1, 'bf16', 'nvfp4', false])
    near(pair!.relative_difference!, -0.02)
    near(pair!.spread!, 0.01)
    near(pair!.interval![0], -0.02 - (4.302652729911275 * 0.01) / Math.sqrt(3))
    assert.equal(pair!.seeds_to_resolve, 4)
    near(pair!.validation!.mean, -0.04 / 3)
    near(pair!.speed_ratio!, 2)
  })

  it('says when both reach the same loss, and how many tokens a worse recipe needs beyond the better one', () => {
    const pair = compareDirectories(
      [
        makeRun({ recipe: 'bf16', loss: step => 4 - step / 10 }),
        makeRun({ recipe: 'mxfp4', loss: step => 4 - step / 20, speed: 4000 }),
      ],
      'bf16',
    ).pairs[0]!
    // mxfp4 ends at 3, which bf16 has after 10 of 20 steps, at a quarter of the speed.
    near(pair.time_to_equal_loss!.loss, 3)
    near(pair.time_to_equal_loss!.baseline_seconds, 1.28)
    near(pair.time_to_equal_loss!.recipe_seconds, 0.64)
    near(pair.time_to_equal_loss!.ratio, 0.5)
    assert.equal(pair.extra_tokens!.step, 16)
    near(pair.extra_tokens!.mean, 1)
    const better = compareDirectories(
      [
        makeRun({ recipe: 'mxfp4', loss: step => 4 - step / 20 }),
        makeRun({ recipe: 'bf16', loss: step => 4 - step / 10 }),
      ],
      'mxfp4',
    ).pairs[0]!
    near(better.extra_tokens!.mean, -0.5)
    const noisy = (step: number) => 4 - step / 10 + (step % 3) / 2
    const same = [makeRun({ recipe: 'bf16', loss: noisy }), makeRun({ recipe: 'nvfp4', loss: noisy })]
    assert.equal(compareDirectories(same, 'bf16').pairs[0]!.extra_tokens!.mean, 0)
    const hopeless = compareDirectories(
      [
        makeRun({ recipe: 'bf16', loss: step => 4 - step / 10 }),
        makeRun({ recipe: 'mxfp4', loss: step => 4 - step / 20 }),
        makeRun({ recipe: 'bf16', seed: 2, loss: step => 4 - step / 10 }),
        makeRun({ recipe: 'mxfp4', seed: 2, loss: step => 4 + step / 20 }),
      ],
      'bf16',
    ).pairs[0]!
    assert.equal(hopeless.extra_tokens, null, 'the baseline never had the loss of the second seed')
    assert.equal(hopeless.time_to_equal_loss, null, 'the second seed only rises')
  })

  it('leaves a run that diverged out of the differences, and says where it did', () => {
    const { arms, pairs } = compareDirectories(
      [
        makeRun({ recipe: 'bf16', loss: () => 2 }),
        makeRun({ recipe: 'nvfp4-plain', loss: () => 3, until: 5, diverges: true }),
        makeRun({ recipe: 'nvfp4', loss: () => 2, until: 7 }),
      ],
      'bf16',
    )
    assert.deepEqual(
      arms.map(({ status, step, validation_loss }) => [status, step, validation_loss]),
      [
        ['finished', 20, 3],
        ['diverged', 5, null],
        ['unfinished', 7, null],
      ],
    )
    const { step, layer, tensor, event } = arms[1]!.diverged!
    assert.deepEqual([step, layer, tensor, event], [6, 'layers.1.mixer.up_proj', 'xRows', 'non_finite'])
    assert.deepEqual(
      pairs.map(pair => [pair.relative_difference, pair.interval, pair.resolved, pair.seeds.length]),
      [
        [null, null, false, 0],
        [null, null, false, 0],
      ],
    )
  })

  it('counts of a branch its own speed alone, and no held-out loss before the end', () => {
    const directory = makeRun({ recipe: 'nvfp4', loss: () => 2, until: 15 })
    const [config, metrics] = ['config.json', 'metrics.jsonl'].map(name => join(directory, name)) as [string, string]
    const branch = { run: 'trunk', step: 10, recipe: 'bf16' }
    writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, 'utf8')), branch }))
    const records = [...readMetrics(directory)].map(record =>
      record.step > 10 ? record : { ...record, tokens_per_second: 1 },
    )
    writeFileSync(
      metrics,
      [...records, { step: 15, validation_loss: 3 }].map(record => `${JSON.stringify(record)}\n`).join(''),
    )
    const [arm] = compareDirectories([directory], 'nvfp4').arms
    assert.deepEqual([arm!.status, arm!.tokens_per_second, arm!.validation_loss], ['unfinished', 1000, null])
  })

  it('judges an expected order', () => {
    const order = [['bf16'], ['nvfp4', 'mxfp4'], ['nvfp4-plain']]
    const directories = [1, 2].flatMap(seed => [
      makeRun({ recipe: 'bf16', seed, loss: () => 2 + seed / 1000 }),
      makeRun({ recipe: 'nvfp4', seed, loss: () => 1.9 }),
      makeRun({ recipe: 'mxfp4', seed, loss: () => 2.1 }),
    ])
    const { expected } = compareDirectories(directories, 'bf16', order)
    assert.deepEqual(
      expected.map(({ better, worse, found }) => `${better} ${worse} ${found}`),
      [
        'bf16 nvfp4 the opposite',
        'bf16 mxfp4 as in the paper',
        'nvfp4 nvfp4-plain not measured',
        'mxfp4 nvfp4-plain not measured',
      ],
    )
  })

  it('has curves of the difference with a band', () => {
    const read = [1, 2].flatMap(seed => [
      readComparedRun(makeRun({ recipe: 'bf16', seed, loss: () => 2 })),
      readComparedRun(makeRun({ recipe: 'nvfp4', seed, loss: step => 2 + (seed * step) / 1000, until: 12 })),
    ])
    const { mean, low, high } = differenceCurve('bf16', 'nvfp4', read)
    assert.equal(mean.length, 12)
    near(mean[9]!, -0.0075)
    assert.ok(low[9]! < mean[9]! && mean[9]! < high[9]!)
  })

  it('refuses runs of other data, tokenizer or number of tokens, and names the difference', () => {
    const loss = () => 2
    const first = makeRun({ recipe: 'bf16', loss })
    const refuses = (other: string, message: string) =>
      assert.throws(
        () => compareDirectories([first, other], 'bf16'),
        (error: Error) => {
          assert.ok(error instanceof UserError)
          assert.equal(error.message.replace(first, 'A').replace(other, 'B'), message)
          return true
        },
      )
    const text = JSON.stringify(join(folder, 'text.txt'))
    refuses(
      makeRun({ recipe: 'nvfp4', loss, corpus: 'beef' }),
      `A and B cannot be compared: they are of different text, data.files ${text} and ${text}`,
    )
    refuses(
      makeRun({ recipe: 'nvfp4', loss, overrides: ['steps=10'], until: 10 }),
      'A and B cannot be compared: steps is 20 in one, 10 in the other (2,560 and 1,280 tokens)',
    )
    refuses(
      makeRun({ recipe: 'nvfp4', loss, overrides: ['data.batch=8'] }),
      'A and B cannot be compared: data.batch is 4 in one, 8 in the other (2,560 and 5,120 tokens)',
    )
    const again = makeRun({ recipe: 'bf16', loss })
    refuses(again, `A and B are both of recipe bf16 with seed 1; wanted one of each`)
    assert.throws(() => compareDirectories([first], 'nvfp4'), /baseline nvfp4 is not among the recipes bf16/)
    const other = compareDirectories([first, makeRun({ recipe: 'nvfp4', loss, overrides: ['optimizer.lr=1'] })], 'bf16')
    assert.deepEqual(other.differences, ['optimizer.lr'])
  })

  it('is written and read back', () => {
    const directory = join(folder, 'written')
    mkdirSync(directory)
    const comparison = compareDirectories([makeRun({ recipe: 'bf16', loss: () => 2 })], 'bf16')
    writeComparison(directory, comparison)
    assert.deepEqual(readComparison(directory), JSON.parse(readFileSync(join(directory, 'comparison.json'), 'utf8')))
    assert.deepEqual(readComparison(directory).arms, comparison.arms)
    rmSync(join(directory, 'comparison.json'))
    assert.throws(() => readComparison(directory), /holds no comparison/)
  })
})

describe('suites', () => {
  const named = Object.values(suites)

  it('are the figures of the issue, each with a baseline among its arms', () => {
    assert.deepEqual(named.map(({ name }) => name).sort(), [
      'fig10',
      'fig11',
      'fig12',
      'fig13',
      'fig14',
      'fig4',
      'fig6',
      'fig7',
      'fig8',
      'fig9',
    ])
    for (const { name, arms, baseline } of named)
      assert.ok(
        arms.some(({ recipe, branch }) => recipe === baseline && !branch),
        name,
      )
  })

  it('name recipes that exist, each once, and order only their arms', () => {
    for (const { name, arms, order } of named) {
      const list = arms.map(({ recipe }) => recipe)
      assert.equal(new Set(list).size, list.length, name)
      for (const recipe of [...list, ...arms.flatMap(({ branch }) => (branch ? [branch.recipe] : []))])
        assert.ok(Object.hasOwn(recipes, recipe), `${name}: ${recipe}`)
      for (const recipe of order.flat()) assert.ok(list.includes(recipe), `${name}: ${recipe}`)
    }
  })

  it('branch late switches where their recipes switch', () => {
    for (const { recipe, branch } of suites.fig7!.arms.filter(({ branch }) => branch)) {
      const from = recipes[recipe]!.rules.map(rule => rule.from).find(step => step !== undefined)
      assert.deepEqual(from, { share: branch!.at }, recipe)
    }
  })
})
