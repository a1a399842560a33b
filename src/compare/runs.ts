import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { configKeys, valueAt } from '../config/keys.ts'
import type { RunConfig } from '../config/schema.ts'
import { listCheckpoints } from '../run/checkpoint.ts'
import { names } from '../run/layout.ts'
import { type Origin, readEvents, readMetrics, readRun } from '../run/read.ts'
import { isTraining, isValidation } from '../run/records.ts'
import { smooth, windowOf } from './curves.ts'
import { median } from './statistics.ts'

/** A run as a comparison reads it from its directory. */

/** `missing`: not begun. `unfinished`: can go on. `diverged`: stopped at a number that is not finite, or a gradient that is zero throughout. */
export type Status = 'missing' | 'unfinished' | 'finished' | 'diverged'

/** Where a run that diverged did so. */
export interface Divergence {
  readonly step: number
  /** `non_finite` or `zero_gradient`. */
  readonly event: string
  /** What went first, as `layers.3.mixer.in_proj` and `weight gradient`; absent if only the loss shows it. */
  readonly layer?: string
  readonly tensor?: string
  readonly reason: string
}

/** Events with which training stops for good. */
const fatal: ReadonlySet<string> = new Set(['non_finite', 'zero_gradient'])

export function findDivergence(directory: string): Divergence | undefined {
  for (const { step, event, layer, tensor, reason } of readEvents(directory)) {
    if (!fatal.has(event)) continue
    const place = typeof layer === 'string' ? { layer, tensor: String(tensor) } : {}
    return { step, event, ...place, reason: String(reason) }
  }
  return undefined
}

const statusIn = (directory: string, { steps }: RunConfig, hasDiverged: () => boolean): Status =>
  listCheckpoints(directory).includes(steps) ? 'finished' : hasDiverged() ? 'diverged' : 'unfinished'

export function statusOf(directory: string): Status {
  if (!existsSync(join(directory, names.config))) return 'missing'
  return statusIn(directory, readRun(directory).config, () => findDivergence(directory) !== undefined)
}

export interface ComparedRun {
  readonly directory: string
  readonly config: RunConfig
  readonly origin: Origin
  readonly status: Status
  readonly divergence: Divergence | undefined
  /** Of step 1 on; losses in nats per token. */
  readonly losses: readonly number[]
  readonly smoothed: readonly number[]
  /** In the order in which they were measured; losses in nats per token. */
  readonly validations: readonly { readonly step: number; readonly loss: number }[]
  /** Median over the steps, of a branch those of its own. */
  readonly tokensPerSecond: number | undefined
}

export const tokensPerStep = ({ data }: RunConfig): number => data.batch * data.sequence

/** @throws UserError if the directory holds no run. */
export function readComparedRun(directory: string): ComparedRun {
  const { config, origin } = readRun(directory)
  const losses: number[] = []
  const speeds: number[] = []
  const validations: { step: number; loss: number }[] = []
  for (const record of readMetrics(directory)) {
    if (isTraining(record)) {
      losses.push(record.loss)
      if (record.step > (origin.branch?.step ?? 0)) speeds.push(record.tokens_per_second)
    } else if (isValidation(record)) validations.push({ step: record.step, loss: record.validation_loss })
  }
  const divergence = findDivergence(directory)
  return {
    directory,
    config,
    origin,
    status: statusIn(directory, config, () => divergence !== undefined),
    divergence,
    losses,
    smoothed: smooth(losses, windowOf(config.steps)),
    validations,
    tokensPerSecond: speeds.length > 0 ? median(speeds) : undefined,
  }
}

/** What must be the same for losses to be comparable step by step; the text itself is compared by its fingerprint. */
const paired = [
  'data.tokenizer',
  'steps',
  'data.sequence',
  'data.batch',
  'data.boundaries',
  'validation.batches',
] as const

/**
 * @throws UserError naming what differs between the first run and another, if it is the text, the tokenizer, the number of tokens, or
 * how they are cut into steps.
 */
export function checkComparable(runs: readonly ComparedRun[]): void {
  const [first, ...others] = runs
  for (const run of others) {
    const refuse = (what: string): never => {
      throw new UserError(`${first!.directory} and ${run.directory} cannot be compared: ${what}`)
    }
    for (const key of paired) {
      const [a, b] = [valueAt(first!.config, key), valueAt(run.config, key)]
      if (a === b) continue
      const tokens = ({ config }: ComparedRun) => (config.steps * tokensPerStep(config)).toLocaleString('en-US')
      const count = tokens(first!) === tokens(run) ? '' : ` (${tokens(first!)} and ${tokens(run)} tokens)`
      refuse(`${key} is ${a} in one, ${b} in the other${key === 'data.tokenizer' ? '' : count}`)
    }
    if (first!.origin.corpus !== run.origin.corpus)
      refuse(
        `they are of different text, data.files ${JSON.stringify(first!.config.data.files)} and ${JSON.stringify(run.config.data.files)}`,
      )
  }
}

/** Keys that a comparison is about, or that change no numbers. */
const expected = new Set<string>([
  'recipe',
  'seed',
  'name',
  'threads',
  'level',
  'libraries',
  'model.recompute',
  'checkpoint.every',
  'checkpoint.keep',
])

/** Keys, beside recipe and seed, whose values are not the same in all runs. */
export function otherDifferences(runs: readonly ComparedRun[]): string[] {
  const values = (key: string) => new Set(runs.map(({ config }) => JSON.stringify(valueAt(config, key))))
  return configKeys.filter(key => !expected.has(key) && key !== 'data.files' && values(key).size > 1)
}
