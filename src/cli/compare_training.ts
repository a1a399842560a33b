import { relative } from 'node:path'
import type { Command } from 'commander'
import type { ComparisonInput } from '../compare/comparison.ts'
import { readComparedRun, statusOf } from '../compare/runs.ts'
import { UserError } from '../config/errors.ts'
import { overrideConfig } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Conducted, type ConductOptions, Conductor, type PlannedRun } from './compare_arms.ts'
import { conductJobs } from './compare_jobs.ts'
import { describeRun } from './dry_run.ts'
import { type FittedRun, fitSteps, stepsBefore } from './fit_steps.ts'
import { wholeNumber } from './session.ts'
import { stopOnSignals } from './signals.ts'

/** What `compare` and `ablate` share: options of training, and the way from a plan to its runs. */

/** `90s`, `75m`, `2h`, `1h30m` in seconds. */
export function duration(text: string): number {
  const parts = /^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?$/.exec(text.trim())
  const [hours, minutes, seconds] = (parts?.slice(1) ?? []).map(part => Number(part ?? 0))
  const total = (hours ?? 0) * 3600 + (minutes ?? 0) * 60 + (seconds ?? 0)
  if (!(total > 0)) throw new UserError(`--budget: found ${text}, wanted a time such as 90s, 75m or 1h30m`, 2)
  return total
}

/** What `compare` and `ablate` ask of the training of their runs. */
export interface TrainingOptions {
  /** Seconds. */
  budget?: number
  fit?: boolean
  jobs: number
  json?: boolean
}

export const addTrainingOptions = (command: Command): Command =>
  command
    .option('--budget <time>', 'stop when this time is used up, such as 75m or 2h', duration)
    .option('--fit', 'as many steps as fit the budget, found by timing every recipe for a moment')
    .option('--jobs <count>', 'runs that train side by side, each with its part of the cores', wholeNumber(1), 1)
    .option('--json', 'print JSON')

/** The config to train, with the number of steps that fits the budget if that is asked for, and the overrides that give it. */
export async function fittedConfig(
  load: (overrides: readonly string[]) => RunConfig,
  overrides: readonly string[],
  { budget, fit, jobs }: TrainingOptions,
  folders: readonly string[],
  runsOf: (base: RunConfig) => readonly FittedRun[],
): Promise<{ base: RunConfig; keys: readonly string[] }> {
  if (!fit) return { base: load(overrides), keys: overrides }
  if (budget === undefined) throw new UserError('--fit: wanted --budget beside it, such as --budget 75m', 2)
  const given = overrides.find(text => text.startsWith('steps='))
  if (given) throw new UserError(`--fit chooses the number of steps, so ${given} cannot be given beside it`, 2)
  const say = (line: string) => void process.stderr.write(`${line}\n`)
  const steps = stepsBefore(folders) ?? (await fitSteps(runsOf(load(overrides)), budget, jobs, say))
  const keys = [...overrides, `steps=${steps}`]
  return { base: load(keys), keys }
}

/** Trains planned runs, one after another or side by side. */
export async function conductAll(
  runs: readonly PlannedRun[],
  { budget, jobs, json }: TrainingOptions,
  changed: ConductOptions['changed'],
): Promise<Conducted> {
  const { signal, release } = stopOnSignals()
  const options = { stream: json ? process.stderr : process.stdout, signal, budget, changed }
  try {
    return jobs > 1 ? await conductJobs(runs, jobs, options) : await new Conductor(runs, options).conduct()
  } finally {
    release()
  }
}

/** The config of one arm. @throws UserError if the recipe cannot run the model's sizes. */
export function armConfig(base: RunConfig, recipe: string, seed: number): RunConfig {
  const config = overrideConfig(base, [`recipe=${recipe}`, `seed=${seed}`])
  try {
    describeRun(config)
  } catch (error) {
    throw new UserError((error as Error).message)
  }
  return config
}

export const notes: Readonly<Record<Conducted, string | undefined>> = {
  finished: undefined,
  stopped: 'stopped; all is saved, and the same command goes on',
  budget: 'the budget is used up; all is saved, and the same command with another budget goes on',
}

/** What is known of planned runs by now, as input of a comparison in `folder`. */
export const readArms = (planned: readonly PlannedRun[], folder: string): ComparisonInput['arms'] =>
  planned.map(({ recipe, seed, config, directory }) => ({
    recipe,
    seed,
    steps: config.steps,
    run: relative(folder, directory),
    read: statusOf(directory) === 'missing' ? undefined : readComparedRun(directory),
  }))
