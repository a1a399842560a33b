import { relativeDifference, relativeDifferences, stepReaching } from './curves.ts'
import { type ComparedRun, tokensPerStep } from './runs.ts'
import { type Estimate, estimate, mean, seedsToResolve } from './statistics.ts'

/**
 * What lies between a baseline and another recipe, from runs with the same seeds.
 *
 * Time to equal loss: the loss that both reach is the higher one of the two at the end. Each run's time to it is the tokens until its smoothed
 * curve comes down to it, divided by the run's median speed: what training steps take, without validation and checkpoints.
 *
 * Extra tokens: measured at the last step before the learning rate decays, because a run that is cut short has not had its decay. Where the
 * recipe is worse there, and the baseline had that loss after t of its s steps, the recipe needs s / t - 1 more tokens for the same
 * loss (the paper's 36 % for MXFP4, section 5); where it is better, it needs 1 - t / s fewer, a negative share.
 */

export interface Interval {
  readonly mean: number
  readonly interval: readonly [low: number, high: number] | null
  readonly resolved: boolean
}

export interface Pair {
  readonly baseline: string
  readonly recipe: string
  /** (baseline - recipe) / baseline of smoothed training losses at the end, mean over seeds: negative where the recipe is worse. */
  readonly relative_difference: number | null
  /** Confidence interval of it; null with fewer than two seeds. */
  readonly interval: readonly [low: number, high: number] | null
  /** Whether the interval leaves out zero. */
  readonly resolved: boolean
  /** Standard deviation over the seeds. */
  readonly spread: number | null
  /** Seeds of which both runs are finished, and the relative difference of each. */
  readonly seeds: readonly number[]
  readonly per_seed: readonly number[]
  /** Seeds with which a difference of this size and spread would be resolved. */
  readonly seeds_to_resolve: number | null
  /** The same of the validation losses at the end. */
  readonly validation: Interval | null
  /** Tokens per second of the recipe over those of the baseline. */
  readonly speed_ratio: number | null
  readonly time_to_equal_loss: {
    /** Nats per token. */
    readonly loss: number
    readonly baseline_seconds: number
    readonly recipe_seconds: number
    /** Recipe over baseline: below 1 where the recipe is there first. */
    readonly ratio: number
  } | null
  /** Share of tokens that the recipe needs beyond the baseline's for the same loss, at `step`. */
  readonly extra_tokens: (Interval & { readonly step: number }) | null
}

interface Both {
  readonly seed: number
  readonly baseline: ComparedRun
  readonly recipe: ComparedRun
}

const endOf = ({ smoothed }: ComparedRun): number => smoothed.at(-1)!

function timeToEqualLoss(both: readonly Both[]): Pair['time_to_equal_loss'] {
  const times = both.flatMap(({ baseline, recipe }) => {
    const loss = Math.max(endOf(baseline), endOf(recipe))
    const seconds = ({ smoothed, config, tokensPerSecond }: ComparedRun) => {
      const step = stepReaching(smoothed, loss)
      return step === undefined || !tokensPerSecond ? [] : [(step * tokensPerStep(config)) / tokensPerSecond]
    }
    const [a, b] = [...seconds(baseline), ...seconds(recipe)]
    return a !== undefined && b !== undefined ? [{ loss, a, b }] : []
  })
  if (times.length < Math.max(1, both.length)) return null
  const [baseline_seconds, recipe_seconds] = [mean(times.map(({ a }) => a)), mean(times.map(({ b }) => b))]
  return {
    loss: mean(times.map(({ loss }) => loss)),
    baseline_seconds,
    recipe_seconds,
    ratio: recipe_seconds / baseline_seconds,
  }
}

const lastStableStep = ({ config: { steps, schedule } }: ComparedRun): number =>
  steps - Math.round(schedule.decay * steps)

function extraTokens(both: readonly Both[]): Pair['extra_tokens'] {
  const step = both[0] ? lastStableStep(both[0].baseline) : 0
  const shares = both.flatMap(({ baseline, recipe }) => {
    const [b, r] = [baseline, recipe].map(({ smoothed }) => smoothed.slice(0, step)) as [number[], number[]]
    if (b.length < step || step === 0) return []
    const [atB, atR] = [b.at(-1)!, r.at(-1)!]
    if (atB === atR) return [0]
    const reached = atR > atB ? stepReaching(b, atR) : stepReaching(r, atB)
    if (reached === undefined) return []
    return [atR > atB ? step / reached - 1 : reached / step - 1]
  })
  // Seeds of which it cannot be told are the worst: the others alone would make the recipe better than it is.
  const found = shares.length === both.length ? estimate(shares) : undefined
  return found ? { mean: found.mean, interval: found.interval, resolved: found.resolved, step } : null
}

const shortened = (found: Estimate | undefined): Interval | null =>
  found ? { mean: found.mean, interval: found.interval, resolved: found.resolved } : null

/** Runs of both recipes, seed by seed. */
function pairUp(baseline: string, recipe: string, runs: readonly ComparedRun[]): Both[] {
  const of = (name: string) =>
    new Map(runs.filter(({ config }) => config.recipe === name).map(run => [run.config.seed, run]))
  const others = of(recipe)
  return [...of(baseline)].flatMap(([seed, run]) => {
    const other = others.get(seed)
    return other ? [{ seed, baseline: run, recipe: other }] : []
  })
}

/** Compares `recipe` with `baseline` over the seeds of which both have a finished run. */
export function comparePair(baseline: string, recipe: string, finished: readonly ComparedRun[]): Pair {
  const both = pairUp(baseline, recipe, finished)
  const differences = both.map(({ baseline, recipe }) => relativeDifference(endOf(baseline), endOf(recipe)))
  const validation = both.flatMap(({ baseline, recipe }) => {
    const [a, b] = [baseline, recipe].map(({ validations }) => validations.at(-1)?.loss)
    return a !== undefined && b !== undefined ? [relativeDifference(a, b)] : []
  })
  const speeds = both.flatMap(({ baseline: { tokensPerSecond: a }, recipe: { tokensPerSecond: b } }) =>
    a && b ? [b / a] : [],
  )
  const found = estimate(differences)
  return {
    baseline,
    recipe,
    relative_difference: found?.mean ?? null,
    interval: found?.interval ?? null,
    resolved: found?.resolved ?? false,
    spread: differences.length > 1 ? found!.spread : null,
    seeds: both.map(({ seed }) => seed),
    per_seed: differences,
    seeds_to_resolve: (found && !found.resolved ? seedsToResolve(found) : undefined) ?? null,
    validation: shortened(estimate(validation)),
    speed_ratio: speeds.length > 0 ? mean(speeds) : null,
    time_to_equal_loss: timeToEqualLoss(both),
    extra_tokens: extraTokens(both),
  }
}

/** The relative difference after each step, from step 1 on: mean over seeds, and the band of its confidence interval, equal to it with one seed. */
export interface DifferenceCurve {
  readonly mean: readonly number[]
  readonly low: readonly number[]
  readonly high: readonly number[]
}

/** Relative difference curves of a recipe against a baseline, up to the shortest run; empty without a common seed. */
export function differenceCurve(baseline: string, recipe: string, runs: readonly ComparedRun[]): DifferenceCurve {
  const curves = pairUp(baseline, recipe, runs).map(both =>
    relativeDifferences(both.baseline.smoothed, both.recipe.smoothed),
  )
  const length = curves.length > 0 ? Math.min(...curves.map(curve => curve.length)) : 0
  const estimates = Array.from({ length }, (_, i) => estimate(curves.map(curve => curve[i]!))!)
  return {
    mean: estimates.map(({ mean }) => mean),
    low: estimates.map(({ mean, interval }) => interval?.[0] ?? mean),
    high: estimates.map(({ mean, interval }) => interval?.[1] ?? mean),
  }
}
