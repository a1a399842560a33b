import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { firstDifference } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Checkpoint, latestGood, removeRemains, setAside } from './checkpoint.ts'
import { isSystemError, makeDirectory, type Progress, replaceFile, systemReason } from './files.ts'
import { names } from './layout.ts'
import { lockRun } from './lock.ts'
import { configText, type Origin, readMetrics, readRun, type StoredRun } from './read.ts'
import { cutRecords } from './records.ts'
import { Run } from './run.ts'

/** Creates `<root>/<name>-NNN` with the number after the highest there is, and returns its path. */
export function createRunDirectory(name: string, root = 'runs'): string {
  const numbers = () =>
    readdirSync(root).flatMap(entry => {
      const number = entry.startsWith(`${name}-`) ? entry.slice(name.length + 1) : ''
      return /^\d{3,}$/.test(number) ? [Number(number)] : []
    })
  return writing(root, () => {
    makeDirectory(root)
    for (;;) {
      const directory = join(root, `${name}-${String(Math.max(0, ...numbers()) + 1).padStart(3, '0')}`)
      try {
        mkdirSync(directory)
        return directory
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
    }
  })
}

/** Runs `work`, whose system errors mean that the directory cannot be written. */
function writing<T>(directory: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (!isSystemError(error)) throw error
    throw new UserError(`run directory ${directory} cannot be written: ${systemReason(error)}`)
  }
}

/** The run that is already in the directory, or undefined if it is empty or not there. */
function existing(directory: string): StoredRun | undefined {
  if (!existsSync(directory)) return undefined
  if (!statSync(directory).isDirectory()) throw new UserError(`run directory ${directory} is a file`)
  if (existsSync(join(directory, names.config))) return readRun(directory)
  const strange = readdirSync(directory).find(
    name => name !== `${names.config}.partial` && !name.startsWith(names.lock),
  )
  if (strange === undefined) return undefined
  throw new UserError(`run directory ${directory} holds no run, but is not empty: it has ${strange}`)
}

/** Refuses to go on where the numbers would not be those of one run. */
function checkSame(directory: string, { config, origin }: StoredRun, here: RunConfig, originHere: Origin): void {
  const difference = firstDifference(config, here)
  if (difference) throw new UserError(`run directory ${directory} holds a run of another config: ${difference}`)
  if (origin.corpus !== originHere.corpus)
    throw new UserError(`run directory ${directory}: the text of data.files is not the one that the run began with`)
}

/** The newest intact checkpoint; damaged newer ones are moved aside. */
function takeCheckpoint(
  directory: string,
  progress?: Progress,
): { checkpoint: Checkpoint | undefined; damaged: string[] } {
  removeRemains(directory)
  const damaged: { step: number; reason: string }[] = []
  const checkpoint = latestGood(directory, (step, reason) => damaged.push({ step, reason }), progress)
  for (const { step } of damaged) setAside(directory, step)
  return { checkpoint, damaged: damaged.map(({ reason }) => reason) }
}

/** What of the place where a run computes has changed; `1 -> 2` by name. */
function placementChanges(before: Origin['device'], after: Origin['device']): Record<string, string> {
  const keys = new Set([...Object.keys(before), ...Object.keys(after)])
  const changed = [...keys].filter(key => before[key] !== after[key])
  return Object.fromEntries(changed.map(key => [key, `${before[key] ?? 'absent'} -> ${after[key] ?? 'absent'}`]))
}

/**
 * Refuses to begin a run anew that has been beyond its first checkpoint, and would lose its records: somebody has deleted its checkpoints.
 */
function checkBeginning(directory: string, { checkpoint: { every } }: RunConfig): void {
  let last = 0
  for (const { step } of readMetrics(directory)) last = step
  if (every === 0 || last <= every) return
  throw new UserError(
    `run directory ${directory} has records of ${last} steps, but no checkpoint any more; use another directory, or delete it to begin anew`,
  )
}

export interface OpenOptions {
  /** Told of every damaged checkpoint that is passed over, in a sentence; an event records it too. */
  readonly notice?: (sentence: string) => void
  /** Told of the bytes of checkpoints that are checked. */
  readonly progress?: Progress
}

/**
 * Opens a directory for training: a new run in an absent or empty directory, or the unfinished run of the same config that is in
 * it, cut back to its newest intact checkpoint. `close` it.
 * @throws UserError if anything else is there, naming the first difference; if another process writes to it; if it cannot be written.
 */
export function openRun(
  directory: string,
  config: RunConfig,
  origin: Origin,
  { notice = () => {}, progress }: OpenOptions = {},
): Run {
  const before = existing(directory)
  if (before) checkSame(directory, before, config, origin)
  return writing(directory, () => {
    makeDirectory(directory)
    const unlock = lockRun(directory)
    try {
      const { checkpoint, damaged } = takeCheckpoint(directory, progress)
      const step = checkpoint?.state.step ?? 0
      const { branch, imported } = before?.origin ?? {}
      const beginning = branch ? `at step ${branch.step} of another run` : imported && `with the weights of ${imported}`
      if (beginning && !checkpoint)
        throw new UserError(`run directory ${directory} began ${beginning}, and has no checkpoint any more`)
      if (before && !checkpoint) checkBeginning(directory, config)
      if (step >= config.steps)
        throw new UserError(
          `run directory ${directory} holds a finished run: ${step} of ${config.steps} steps are done`,
        )
      if (before) cutRecords(directory, checkpoint ? step : -1)
      else replaceFile(join(directory, names.config), configText({ config, origin }))
      const run = new Run(directory, config, checkpoint, unlock)
      for (const reason of damaged) {
        run.event({ step, event: 'damaged_checkpoint', reason })
        notice(`${reason}; going on from step ${step}`)
      }
      if (before) {
        run.event({ step, event: 'resumed', halfbyte: origin.halfbyte })
        const changes = placementChanges(before.origin.device, origin.device)
        if (Object.keys(changes).length > 0) run.event({ step, event: 'placement_changed', ...changes })
      }
      return run
    } catch (error) {
      unlock()
      throw error
    }
  })
}
