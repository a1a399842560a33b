import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Comparison, compare, writeComparison } from '../src/compare/comparison.ts'
import { readComparedRun } from '../src/compare/runs.ts'
import type { RunConfig } from '../src/config/schema.ts'
import { openRun } from '../src/run/open.ts'
import type { Origin } from '../src/run/read.ts'
import { smallConfig } from './training.ts'

/** Run directories whose records follow formulas, for tests of what reads them. */

const origin: Origin = { halfbyte: '0.1.0', device: { backend: 'cpu' }, corpus: 'c0ffee' }

export interface Made {
  recipe: string
  seed?: number
  loss: (step: number) => number
  speed?: number
  /** Steps recorded; default: all. */
  until?: number
  /** Of the run; default 20. */
  steps?: number
  overrides?: string[]
  corpus?: string
  diverges?: boolean
  /** Steps of loss spikes. */
  spikes?: number[]
  /** Steps between two samples of numerics; default: none. */
  numericsEvery?: number
}

const linears = ['layers.0.mixer.in_proj', 'layers.1.mixer.up_proj', 'layers.3.mixer.down_proj']

/** Numerics of a step: rising with the layer, and constant where the recipe does not quantise. */
function numericsOf(step: number, recipe: string) {
  return linears.flatMap((linear, i) => {
    const ofLayer = { step, linear, grad_norm: 1, zero_wgrad: i / 100 }
    if (recipe === 'bf16') return [ofLayer]
    return ['xRows', 'wRows', 'dyColumns'].map((operand, o) => ({
      ...ofLayer,
      operand,
      amax: 1,
      snr_db: 20 - i - o,
      flushed: 0.01 * (1 + i + o),
      saturated: 0.02,
      zero_scales: 0,
    }))
  })
}

/** A run of steps of 128 tokens, decaying over the last fifth, in the folder `name` of `folder`. Returns its directory. */
export function makeRun(folder: string, name: string, made: Made): string {
  const { recipe, seed = 1, loss, speed = 1000, steps = 20, until = steps, overrides = [], corpus } = made
  const directory = join(folder, name)
  const config: RunConfig = smallConfig(folder, `steps=${steps}`, `recipe=${recipe}`, `seed=${seed}`, ...overrides)
  const run = openRun(directory, config, corpus === undefined ? origin : { ...origin, corpus })
  for (let step = 1; step <= until; step++) {
    run.metrics({ step, loss: loss(step), tokens: 128 * step, lr: 1, grad_norm: 1, tokens_per_second: speed })
    if (made.spikes?.includes(step)) {
      const place = { layer: 'lm_head', tensor: 'weight gradient', norm: 1 }
      run.event({ step, event: 'loss_spike', loss: loss(step), deviations: 6.5, ...place })
    }
    if (made.numericsEvery !== undefined && (step === 1 || step % made.numericsEvery === 0))
      for (const record of numericsOf(step, recipe)) run.numerics(record)
  }
  if (made.diverges)
    run.event({
      step: until + 1,
      event: 'non_finite',
      reason: 'the loss is NaN',
      layer: 'layers.1.mixer.up_proj',
      tensor: 'xRows',
    })
  else if (until === config.steps) {
    run.metrics({ step: until, validation_loss: loss(until) + 1 })
    run.save({ model: [] }, { step: until, seed, tokens: 128 * until })
  }
  run.close()
  return directory
}

/** Runs below `folder`/`name`/runs with their comparison.json; the first is of the baseline. Returns the directory. */
export function makeComparison(
  folder: string,
  name: string,
  runs: readonly Made[],
  change: Partial<Comparison> = {},
): string {
  const directory = join(folder, name)
  mkdirSync(directory, { recursive: true })
  const arms = runs.map(made => {
    const run = join('runs', `${made.recipe}-seed-${made.seed ?? 1}`)
    const read = readComparedRun(makeRun(folder, join(name, run), made))
    const { recipe, seed, steps } = read.config
    return { recipe, seed, steps, run, read }
  })
  const seeds = new Set(arms.map(({ seed }) => seed)).size
  const recipes = [...new Set(arms.map(({ recipe }) => recipe))].join(',')
  const command = `halfbyte compare small.json --recipes ${recipes} --seeds ${seeds} --out ${name}`
  const comparison = compare({ title: 'small-test', command, baseline: arms[0]!.recipe, arms })
  writeComparison(directory, { ...comparison, ...change })
  return directory
}
