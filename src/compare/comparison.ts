import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { replaceFile } from '../run/files.ts'
import { smoothedShare, windowOf } from './curves.ts'
import { comparePair, type Pair } from './pairs.ts'
import {
  type ComparedRun,
  checkComparable,
  type Divergence,
  otherDifferences,
  type Status,
  tokensPerStep,
} from './runs.ts'
import { confidence } from './statistics.ts'

/** What comparison.json holds: the runs of a comparison and what lies between their recipes. docs/compare.md describes it for readers. */

/** One run of a comparison. Measured values are null where there are none yet. */
export interface Arm {
  readonly recipe: string
  readonly seed: number
  readonly status: Status
  /** Training loss at the last step, smoothed; nats per token. */
  readonly loss: number | null
  readonly validation_loss: number | null
  /** Median over the steps. */
  readonly tokens_per_second: number | null
  /** Run directory, from the folder of comparison.json. */
  readonly run: string
  /** Steps done, and of how many. */
  readonly step: number
  readonly steps: number
  readonly diverged?: Divergence
  /** Where the run branched from another. */
  readonly branch?: { readonly run: string; readonly step: number; readonly recipe: string }
}

/** An expected order of two recipes, and what was found. */
export interface Expectation {
  readonly better: string
  readonly worse: string
  readonly found: 'as in the paper' | 'the opposite' | 'not resolved' | 'not measured'
  /** (worse - better) / worse of the losses at the end: positive where the paper's order holds. */
  readonly relative_difference: number | null
  readonly interval: readonly [number, number] | null
  readonly seeds_to_resolve: number | null
}

export interface Comparison {
  readonly format: 1
  /** What is compared: the config's name, or that of a suite. */
  readonly title: string
  readonly baseline: string
  readonly recipes: readonly string[]
  readonly seeds: readonly number[]
  readonly tokens: number
  readonly confidence: number
  /** Steps over which losses are averaged. */
  readonly window: number
  /** The command that makes, or continues, this comparison. */
  readonly command: string
  readonly arms: readonly Arm[]
  readonly pairs: readonly Pair[]
  readonly expected: readonly Expectation[]
  /** Keys of the configs, other than recipe and seed, that are not the same in all runs. */
  readonly differences: readonly string[]
  /** Why the comparison is not whole, if it is not. */
  readonly note?: string
}

export const comparisonFile = 'comparison.json'

/** A run that belongs to a comparison, begun or not. */
export interface PlannedArm {
  readonly recipe: string
  readonly seed: number
  readonly steps: number
  /** From the folder of comparison.json. */
  readonly run: string
  readonly read: ComparedRun | undefined
}

export interface ComparisonInput {
  readonly title: string
  readonly command: string
  readonly baseline: string
  readonly arms: readonly PlannedArm[]
  /** Groups of recipes from best to worst, as the paper finds them; those of one group are not told apart. */
  readonly order?: readonly (readonly string[])[]
  readonly note?: string | undefined
}

function describeArm({ recipe, seed, steps, run, read }: PlannedArm): Arm {
  const known = { recipe, seed, status: read?.status ?? ('missing' as const) }
  const measured = {
    loss: read?.smoothed.at(-1) ?? null,
    validation_loss: (read?.status === 'finished' ? read.validations.at(-1)?.loss : undefined) ?? null,
    tokens_per_second: read?.tokensPerSecond ?? null,
  }
  return {
    ...known,
    ...measured,
    run,
    step: read?.losses.length ?? 0,
    steps,
    ...(read?.status === 'diverged' && read.divergence && { diverged: read.divergence }),
    ...(read?.origin.branch && { branch: read.origin.branch }),
  }
}

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)]

function expectations(order: readonly (readonly string[])[], finished: readonly ComparedRun[]): Expectation[] {
  const neighbours = order
    .slice(1)
    .flatMap((group, i) => order[i]!.flatMap(better => group.map(worse => ({ better, worse }))))
  return neighbours.map(({ better, worse }) => {
    const pair = comparePair(worse, better, finished)
    const { relative_difference: difference, interval, resolved, seeds_to_resolve } = pair
    const found =
      difference === null
        ? 'not measured'
        : !resolved
          ? 'not resolved'
          : difference > 0
            ? 'as in the paper'
            : 'the opposite'
    return { better, worse, found, relative_difference: difference, interval, seeds_to_resolve }
  })
}

/**
 * Compares runs of several recipes and seeds.
 * @throws UserError if two runs cannot be compared, naming what differs, or are of one recipe and seed.
 */
export function compare({ title, command, baseline, arms, order = [], note }: ComparisonInput): Comparison {
  const runs = arms.flatMap(({ read }) => (read ? [read] : []))
  checkComparable(runs)
  const seen = new Map<string, string>()
  for (const { recipe, seed, run } of arms) {
    const other = seen.get(`${recipe} ${seed}`)
    if (other !== undefined)
      throw new UserError(`${other} and ${run} are both of recipe ${recipe} with seed ${seed}; wanted one of each`)
    seen.set(`${recipe} ${seed}`, run)
  }
  const recipes = unique(arms.map(({ recipe }) => recipe))
  if (!recipes.includes(baseline))
    throw new UserError(`the baseline ${baseline} is not among the recipes ${recipes.join(', ')}`, 2)
  const finished = runs.filter(({ status }) => status === 'finished')
  const { steps } = arms[0]!
  return {
    format: 1,
    title,
    baseline,
    recipes,
    seeds: unique(arms.map(({ seed }) => seed)),
    tokens: runs[0] ? steps * tokensPerStep(runs[0].config) : 0,
    confidence,
    window: windowOf(steps),
    command,
    arms: arms.map(describeArm),
    pairs: recipes.filter(recipe => recipe !== baseline).map(recipe => comparePair(baseline, recipe, finished)),
    expected: expectations(order, finished),
    differences: otherDifferences(runs),
    ...(note && { note }),
  }
}

export const smoothing = `mean of the last ${100 * smoothedShare} % of the steps`

export const writeComparison = (directory: string, comparison: Comparison): void =>
  replaceFile(join(directory, comparisonFile), `${JSON.stringify(comparison, null, 2)}\n`)

/** @throws UserError if the directory holds no comparison of this format. */
export function readComparison(directory: string): Comparison {
  const path = join(directory, comparisonFile)
  if (!existsSync(path)) throw new UserError(`${directory} holds no comparison: it has no ${comparisonFile}`)
  let value: unknown
  try {
    value = JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    throw new UserError(`${path} is not JSON`)
  }
  const { format } = (value ?? {}) as { format?: unknown }
  if (format !== 1) throw new UserError(`${path}: found format ${JSON.stringify(format) ?? 'missing'}, wanted 1`)
  return value as Comparison
}
