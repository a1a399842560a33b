import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { Conductor, type PlannedRun } from '../src/cli/compare_arms.ts'
import { type Comparison, readComparison } from '../src/compare/comparison.ts'
import { statusOf } from '../src/compare/runs.ts'
import { readEvents, readMetrics, readRun } from '../src/run/read.ts'
import { isTraining } from '../src/run/records.ts'
import { runCli } from './cli.ts'
import { configFile, smallConfig, testFolder } from './training.ts'

const folder = testFolder()
const config = configFile(folder)
const run = (...args: string[]) => runCli(args, { cwd: folder })

const losses = (directory: string): number[] =>
  [...readMetrics(directory)].flatMap(record => (isTraining(record) ? [record.loss] : []))

const plan = (name: string, recipe: string, ...overrides: string[]): PlannedRun => ({
  recipe,
  seed: 1,
  config: smallConfig(folder, 'steps=12', 'validation.every=0', `recipe=${recipe}`, ...overrides),
  directory: join(folder, name),
})

/** Trains a plan; `stopAt` stops it at the first line that has this text. */
async function conduct(runs: readonly PlannedRun[], stopAt?: string) {
  const controller = new AbortController()
  let written = ''
  const stream = {
    write(text: string) {
      written += text
      if (stopAt !== undefined && text.includes(stopAt)) controller.abort()
    },
  }
  const outcome = await new Conductor(runs, { stream, signal: controller.signal, changed() {} }).conduct()
  return { outcome, written }
}

describe('halfbyte compare', () => {
  it('trains every recipe and seed, writes comparison.json, and does nothing twice', () => {
    const args = ['compare', config, '--recipes', 'bf16,nvfp4', '--seeds', '2', '--out', 'both', 'steps=6']
    const { status, stdout, stderr } = run(...args)
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^3\/4 bf16 seed 2 {2}step 6\/6 .* in all$/m)
    assert.match(stdout, /^nvfp4 {3}2 .* %/m)
    const comparison: Comparison = JSON.parse(readFileSync(join(folder, 'both', 'comparison.json'), 'utf8'))
    assert.deepEqual(
      comparison.arms.map(({ recipe, seed, status }) => `${recipe} ${seed} ${status}`),
      ['bf16 1 finished', 'nvfp4 1 finished', 'bf16 2 finished', 'nvfp4 2 finished'],
    )
    for (const { run, loss, validation_loss, tokens_per_second } of comparison.arms) {
      assert.ok(existsSync(join(folder, 'both', run, 'config.json')), run)
      for (const value of [loss, validation_loss, tokens_per_second]) assert.ok(value! > 0)
    }
    const [pair] = comparison.pairs
    assert.deepEqual([pair!.baseline, pair!.recipe, pair!.seeds], ['bf16', 'nvfp4', [1, 2]])
    assert.ok(pair!.interval![0] < pair!.relative_difference! && pair!.relative_difference! < pair!.interval![1])

    const again = run(...args, '--json')
    assert.equal(again.status, 0, again.stderr)
    assert.match(again.stderr, /1\/4 bf16 seed 1: finished before/)
    assert.deepEqual((JSON.parse(again.stdout) as Comparison).pairs, comparison.pairs)
    assert.match(run('compare', 'both').stdout, /^nvfp4 {3}2 /m)
    const [a, b] = comparison.arms.map(arm => join('both', arm.run))
    const two: Comparison = JSON.parse(run('compare', a!, b!, '--json').stdout)
    assert.deepEqual(two.pairs[0]!.per_seed, pair!.per_seed.slice(0, 1))
    assert.equal(run('compare', a!, b!, '--out', 'two of them').status, 0)
    assert.equal(readComparison(join(folder, 'two of them')).command, `halfbyte compare ${a} ${b} --out 'two of them'`)

    const other = run(...args.slice(0, -1), 'steps=7')
    assert.equal(other.status, 1)
    assert.match(
      other.stderr,
      /^halfbyte: run directory .*bf16-seed-1 holds a run of another config: steps: 6 there, 7 here/,
    )
  })

  it('reports arms that diverge and goes on with the rest', () => {
    const args = ['compare', config, '--recipes', 'bf16,nvfp4', '--seeds', '1', '--out', 'lost', '--json']
    const { status, stdout, stderr } = run(...args, 'steps=8', 'optimizer.lr=1e30', 'schedule.warmup=0')
    assert.equal(status, 0, stderr)
    const { arms, pairs }: Comparison = JSON.parse(stdout)
    assert.deepEqual(
      arms.map(arm => arm.status),
      ['diverged', 'diverged'],
    )
    for (const { diverged, recipe } of arms) {
      assert.ok(diverged!.step >= 2, recipe)
      assert.match(diverged!.layer!, /^layers\.|^lm_head|^norm_f/, recipe)
      assert.ok(diverged!.tensor, recipe)
    }
    assert.equal(pairs[0]!.relative_difference, null)
    assert.match(stderr, /2\/2 nvfp4 seed 1: diverged at step \d+: /)
  })

  it('trains runs side by side to the losses of one after another', () => {
    const args = ['--suite', 'fig7', '--seeds', '1', 'steps=13']
    const one = run('ablate', config, ...args, '--out', 'serial', '--json')
    const two = run('ablate', config, ...args, '--out', 'jobs', '--jobs', '3', '--json')
    assert.deepEqual([one.status, two.status], [0, 0], one.stderr + two.stderr)
    const [serial, jobs] = [one, two].map(({ stdout }) => JSON.parse(stdout) as Comparison)
    const results = ({ arms }: Comparison) =>
      arms.map(({ recipe, status, loss, branch }) => [recipe, status, loss, branch?.step])
    assert.deepEqual(results(jobs!), results(serial!))
    assert.ok(jobs!.arms.every(({ status }) => status === 'finished'))
    assert.match(two.stderr, /6\/6 nvfp4-last-all seed 1 {2}step 13\/13/)
    const few = run('ablate', config, '--suite', 'fig7', '--seeds', '1', '--out', 'few', '--json', 'steps=4')
    assert.match(
      (JSON.parse(few.stdout) as Comparison).note!,
      /nvfp4-last-all branches at 96 % of the steps, which leaves none of 4/,
    )
  })

  it('fits the number of steps to a budget, and keeps to it when it goes on', () => {
    const args = ['compare', config, '--recipes', 'bf16,nvfp4', '--seeds', '1', '--out', 'fitted', '--fit', '--json']
    const first = run(...args, '--budget', '1s')
    assert.equal(first.status, 0, first.stderr)
    const comparison: Comparison = JSON.parse(first.stdout)
    const steps = comparison.arms.map(arm => arm.steps)
    assert.ok(steps[0]! >= 10 && steps[0]! % 10 === 0 && steps[1] === steps[0], `${steps}`)
    assert.ok(comparison.command.endsWith(`steps=${steps[0]}`))
    const second = run(...args, '--budget', '30s')
    assert.equal(second.status, 0, second.stderr)
    const whole: Comparison = JSON.parse(second.stdout)
    assert.deepEqual(
      whole.arms.map(({ status, steps }) => [status, steps]),
      steps.map(count => ['finished', count]),
    )
    const none = run(...args.slice(0, 7), 'nothing', '--fit', '--budget', '0.001s')
    assert.equal(none.status, 1)
    assert.match(none.stderr, /--fit: 2 runs of 10 steps would take \d+ s, more than the budget of 0\.001 s/)
  })

  it('answers a wrong command with one sentence', () => {
    for (const [args, code, sentence] of [
      [['compare', config, '--recipes', 'bf16'], 2, '--out: missing'],
      [['compare', config, '--out', 'x'], 2, '--recipes: missing'],
      [['compare', config, '--out', 'x', '--recipes', 'bf17'], 2, 'did you mean "bf16"?'],
      [['compare', config, '--out', 'x', '--recipes', 'bf16', '--baseline', 'fp8'], 2, '--baseline: found fp8'],
      [['compare', config, '--out', 'x', '--recipes', 'bf16', '--seeds', '0'], 2, 'found 0'],
      [['compare', config, '--out', 'x', '--recipes', 'bf16', '--budget', '2x'], 2, '--budget: found 2x'],
      [['compare', config, '--out', 'x', '--recipes', 'bf16', '--fit'], 2, '--fit: wanted --budget'],
      [
        ['compare', config, '--out', 'x', '--recipes', 'bf16', '--fit', '--budget', '1h', 'steps=3'],
        2,
        'steps=3 cannot',
      ],
      [['compare', '.'], 2, 'neither a run directory nor one of a comparison'],
      [['ablate', config, '--suite', 'fig66'], 2, 'did you mean "fig6"?'],
      [['branch', 'none', '--at', '1', '--recipe', 'bf16'], 1, 'not a run directory'],
      [['branch', 'none', '--recipe', 'bf16'], 2, '--at'],
    ] as const) {
      const { status, stderr, stdout } = run(...args)
      assert.equal(status, code, `${args.join(' ')}: ${stderr}`)
      assert.ok(stderr.includes(sentence), stderr)
      assert.deepEqual([stdout, stderr.trimEnd().split('\n').length], ['', 1], stderr)
    }
    assert.equal(existsSync(join(folder, 'x')), false)
  })
})

describe('the conductor', () => {
  it('goes on where it was stopped, to the same losses', async () => {
    const stopped = [plan('stopped', 'nvfp4')]
    assert.equal((await conduct(stopped, 'step  5/12')).outcome, 'stopped')
    assert.equal(statusOf(stopped[0]!.directory), 'unfinished')
    assert.equal(losses(stopped[0]!.directory).length, 5)
    assert.equal((await conduct(stopped)).outcome, 'finished')
    const straight = [plan('straight', 'nvfp4')]
    await conduct(straight)
    assert.deepEqual(losses(stopped[0]!.directory), losses(straight[0]!.directory))
  })

  it('branches late switches to what they would be from the start', async () => {
    const trunk = plan('trunk', 'nvfp4')
    const branch = { step: 10, directory: trunk.directory, config: trunk.config }
    const branched: PlannedRun = { ...plan('branched', 'nvfp4-late-all'), branch }
    await conduct([trunk, branched])
    const straight = plan('late', 'nvfp4-late-all')
    await conduct([straight])
    assert.deepEqual(losses(branched.directory), losses(straight.directory))
    assert.notDeepEqual(losses(branched.directory), losses(trunk.directory))
    assert.deepEqual(losses(branched.directory).slice(0, 10), losses(trunk.directory).slice(0, 10))
    const { origin } = readRun(branched.directory)
    assert.deepEqual(origin.branch, { step: 10, run: 'trunk', recipe: 'nvfp4' })

    // The trunk is finished and its checkpoint of step 6 is gone: its beginning is trained once more, to the same bits.
    const early: PlannedRun = { ...plan('early', 'bf16'), branch: { ...branch, step: 6 } }
    await conduct([trunk, early])
    assert.deepEqual(losses(early.directory).slice(0, 6), losses(trunk.directory).slice(0, 6))
    assert.equal(statusOf(early.directory), 'finished')
    assert.ok(existsSync(`${trunk.directory}-until-6`))
  })

  it('begins nothing once the budget is used up', async () => {
    const runs = [plan('unpaid', 'bf16')]
    const stream = { write() {} }
    const { signal } = new AbortController()
    const conductor = new Conductor(runs, { stream, signal, budget: 0, changed() {} })
    assert.equal(await conductor.conduct(), 'budget')
    assert.equal(statusOf(runs[0]!.directory), 'missing')
  })
})

describe('halfbyte branch', () => {
  it('goes on under another recipe, for some steps or to the end, and leaves the first run alone', () => {
    assert.equal(run('train', config, '--run', 'parent', 'steps=8').status, 0)
    const files = () => readdirSync(join(folder, 'parent'), { recursive: true }).sort()
    const before = files()
    const { status, stdout, stderr } = run(
      'branch',
      'parent',
      '--at',
      '4',
      '--recipe',
      'bf16',
      '--steps',
      '2',
      '--run',
      'child',
    )
    assert.equal(status, 0, stderr)
    assert.match(stdout, /stopped after step 6 of 8/)
    const child = join(folder, 'child')
    assert.equal(readRun(child).config.recipe, 'bf16')
    assert.equal(losses(child).length, 6)
    assert.deepEqual(losses(child).slice(0, 4), losses(join(folder, 'parent')).slice(0, 4))
    assert.deepEqual([...readMetrics(child)].at(-1)!.step, 6)
    assert.ok('validation_loss' in [...readMetrics(child)].at(-1)!)
    assert.equal([...readEvents(child)][0]!.event, 'branched')
    assert.equal(run('resume', 'child').status, 0)
    assert.equal(statusOf(child), 'finished')
    assert.deepEqual(files(), before)

    const none = run('branch', 'parent', '--at', '5', '--recipe', 'bf16')
    assert.deepEqual([none.status, none.stderr], [1, 'halfbyte: parent has no checkpoint of step 5; there are 4, 8\n'])
    const used = run('branch', 'parent', '--at', '4', '--recipe', 'bf16', '--run', 'child')
    assert.match(used.stderr, /run directory child is not empty/)
    const more = run('branch', 'parent', '--at', '4', '--recipe', 'bf16', '--run', 'third', 'optimizer.lr=1')
    assert.match(more.stderr, /differs from it in more than the recipe: optimizer\.lr: 0\.004 there, 1 here/)
  })
})

describe('halfbyte ablate', () => {
  it('trains a suite, branches included, and sets the paper’s order beside what it found', () => {
    const args = ['ablate', config, '--suite', 'fig13', '--seeds', '1', '--out', 'figures', 'steps=8']
    const { status, stdout, stderr } = run(...args)
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^nvfp4 before nvfp4-signs-none +not resolved/m)
    const comparison: Comparison = JSON.parse(readFileSync(join(folder, 'figures', 'fig13', 'comparison.json'), 'utf8'))
    assert.equal(comparison.baseline, 'fp8')
    assert.ok(comparison.arms.every(arm => arm.status === 'finished'))
    assert.deepEqual(
      comparison.arms.filter(({ branch }) => branch).map(({ recipe, branch }) => `${recipe} ${branch!.step}`),
      ['nvfp4-signs-fresh 3', 'nvfp4-signs-none 3'],
    )
  })
})
