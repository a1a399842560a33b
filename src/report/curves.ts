import { differenceCurve } from '../compare/pairs.ts'
import type { ComparedRun } from '../compare/runs.ts'
import { mean } from '../compare/statistics.ts'
import { groupFor, groupMeans } from './drawing.ts'
import type { ReportedArm, ReportedComparison } from './read.ts'

/** Curves of a comparison as a page shows them: smoothed, thinned to few points, and averaged over seeds. */

/**
 * At most so many points of a curve, of that of a single seed, and of all curves of single seeds together; fewer where a page has several
 * comparisons, whose curves share `pagePoints` and `pageOfSeeds`, but not fewer than `leastPoints`.
 */
const mostPoints = 400
const mostOfSeed = 200
const mostOfSeeds = 6_000
const pagePoints = 1_200
const pageOfSeeds = 12_000
const leastPoints = 120
const leastOfSeed = 40

export interface Marker {
  readonly kind: 'diverged' | 'spike'
  readonly recipe: number
  readonly seed: number
  readonly step: number
  /** Where it lies on the smoothed curve. */
  readonly loss: number
}

export interface Band {
  readonly mean: readonly number[]
  readonly low: readonly number[]
  readonly high: readonly number[]
  /** Whether there is an interval: more than one seed. */
  readonly wide: boolean
}

export interface RecipeCurves {
  readonly recipe: string
  /** Whether a run of it has reached the end: curves of others may be out of all proportion. */
  readonly finished: boolean
  /** Smoothed loss, mean over seeds, at `Curves.steps`; shorter if the runs are. */
  readonly loss: readonly number[]
  /** Of each seed, at `Curves.seedSteps`. */
  readonly seeds: readonly (readonly number[])[]
  readonly validation: readonly { readonly step: number; readonly loss: number }[]
  /** Relative difference against the baseline in percent, at `Curves.steps`. */
  readonly difference: Band | undefined
}

export interface Curves {
  readonly baseline: string
  /** Of whole runs. */
  readonly total: number
  readonly steps: readonly number[]
  readonly seedSteps: readonly number[]
  /** Steps at which something begins for several runs, and what. */
  readonly rules: readonly { readonly step: number; readonly words: string }[]
  readonly recipes: readonly RecipeCurves[]
  readonly markers: readonly Marker[]
}

const stepsOf = (total: number, group: number): number[] =>
  groupMeans(
    Array.from({ length: total }, (_, i) => i + 1),
    group,
  )

/** Mean over curves, up to the shortest. */
function meanCurve(curves: readonly (readonly number[])[]): number[] {
  const length = curves.length > 0 ? Math.min(...curves.map(curve => curve.length)) : 0
  return Array.from({ length }, (_, i) => mean(curves.map(curve => curve[i]!)))
}

/** Mean over the runs that have a validation at that step. */
function meanValidation(arms: readonly ReportedArm[]): { step: number; loss: number }[] {
  const bySteps = new Map<number, number[]>()
  for (const { step, loss } of arms.flatMap(({ run }) => run?.validations ?? []))
    bySteps.set(step, [...(bySteps.get(step) ?? []), loss])
  return [...bySteps].sort(([a], [b]) => a - b).map(([step, losses]) => ({ step, loss: mean(losses) }))
}

const begun = (arms: readonly ReportedArm[]): ComparedRun[] =>
  arms.flatMap(({ run }) => (run && run.losses.length > 0 ? [run] : []))

/** Finished runs if there are any, else those that have begun: what averages are taken of. */
function averaged(arms: readonly ReportedArm[]): ReportedArm[] {
  const some = arms.filter(({ run }) => run && run.losses.length > 0)
  const finished = some.filter(({ run }) => run!.status === 'finished')
  return finished.length > 0 ? finished : some
}

function markersOf(arms: readonly ReportedArm[], index: number): Marker[] {
  return arms.flatMap(({ run, arm, events }) => {
    if (!run || run.smoothed.length === 0) return []
    const at = (step: number) => run.smoothed[Math.min(Math.max(step, 1), run.smoothed.length) - 1]!
    const marker = (kind: Marker['kind'], step: number): Marker => {
      return { kind, recipe: index, seed: arm.seed, step, loss: at(step) }
    }
    const spikes = events.filter(({ event }) => event === 'loss_spike').map(({ step }) => marker('spike', step))
    return run.divergence ? [...spikes, marker('diverged', run.divergence.step)] : spikes
  })
}

const inPercent = (values: readonly number[], group: number): number[] =>
  groupMeans(values, group).map(value => 100 * value)

/** @param comparisons in the page. */
export function curvesOf({ comparison, arms }: ReportedComparison, comparisons = 1): Curves {
  const { baseline, recipes } = comparison
  const all = begun(arms)
  const total = Math.max(0, ...arms.map(({ arm }) => arm.steps))
  const ofSeeds = Math.min(mostOfSeeds, pageOfSeeds / comparisons) / Math.max(1, all.length)
  const group = groupFor(total, Math.min(mostPoints, Math.max(leastPoints, pagePoints / comparisons)))
  const seedGroup = groupFor(total, Math.min(mostOfSeed, Math.max(leastOfSeed, ofSeeds)))
  const schedule = all[0]?.config.schedule
  const averages = new Map(recipes.map(recipe => [recipe, averaged(arms.filter(({ arm }) => arm.recipe === recipe))]))
  const compared = [...averages.values()].flatMap(begun)
  return {
    baseline,
    total,
    steps: stepsOf(total, group),
    seedSteps: stepsOf(total, seedGroup),
    rules: [
      ...[...new Set(all.flatMap(({ origin }) => origin.branch?.step ?? []))].map(step => ({
        step,
        words: 'branches',
      })),
      ...(schedule && schedule.decay > 0
        ? [{ step: total - Math.round(schedule.decay * total), words: 'learning rate decays' }]
        : []),
    ],
    recipes: recipes.map(recipe => {
      const runs = begun(arms.filter(({ arm }) => arm.recipe === recipe))
      const chosen = averages.get(recipe)!
      const band = recipe === baseline ? undefined : differenceCurve(baseline, recipe, compared)
      return {
        recipe,
        finished: chosen.some(({ run }) => run!.status === 'finished'),
        loss: groupMeans(meanCurve(begun(chosen).map(({ smoothed }) => smoothed)), group),
        seeds: runs.length > 1 ? runs.map(({ smoothed }) => groupMeans(smoothed, seedGroup)) : [],
        validation: meanValidation(chosen),
        difference:
          band && band.mean.length > 0
            ? {
                mean: inPercent(band.mean, group),
                low: inPercent(band.low, group),
                high: inPercent(band.high, group),
                wide: band.low.some((low, i) => low < band.high[i]!),
              }
            : undefined,
      }
    }),
    markers: recipes.flatMap((recipe, index) =>
      markersOf(
        arms.filter(({ arm }) => arm.recipe === recipe),
        index,
      ),
    ),
  }
}
