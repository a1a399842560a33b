import { existsSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { UserError } from '../config/errors.ts'
import { firstDifference } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Checkpoint, checkingCheckpoint } from './checkpoint.ts'
import {
  chunksOf,
  counted,
  discard,
  inTurns,
  isSystemError,
  makeDirectory,
  type Pausable,
  type Progress,
  syncDirectory,
  systemReason,
  writeDurably,
  writingFile,
} from './files.ts'
import { checkpointDirectory, names, recordFiles } from './layout.ts'
import { configText, type Origin, readRun } from './read.ts'
import { cutRecords, RecordWriter } from './records.ts'

export interface BranchOptions {
  /** Told of the bytes of the checkpoint that are checked, then of those that are copied. */
  readonly progress?: Progress
  /** Stops the work; nothing stays then. */
  readonly signal?: AbortSignal
}

/** Copies a checkpoint and the records up to its step; pauses after each piece. */
function* copying(saved: Checkpoint, from: string, partial: string, progress: Progress): Pausable<void> {
  const { step } = saved.state
  const folder = checkpointDirectory(partial, step)
  makeDirectory(folder)
  const paths = Object.values(saved.files)
  const total = paths.reduce((sum, path) => sum + statSync(path).size, 0)
  let done = 0
  const count = (bytes: number) => progress((done += bytes), total, `copying the checkpoint of step ${step}`)
  for (const path of paths) yield* writingFile(join(folder, basename(path)), counted(chunksOf(path), count))
  yield* writingFile(join(folder, names.state), chunksOf(join(saved.directory, names.state)))
  syncDirectory(folder)
  for (const name of recordFiles)
    if (existsSync(join(from, name))) yield* writingFile(join(partial, name), chunksOf(join(from, name)))
}

/**
 * Makes `directory` a run that goes on from the checkpoint of `step` of the run `from`, under `config`, which may name another recipe. It
 * has the records of `from` up to that step, so that its curves are whole, an event `branched`, and in its config.json where it came from.
 * Training opens it as any unfinished run.
 * @throws UserError if `from` has no intact checkpoint of that step, if more than the recipe and its rules differ, if `directory` is in use or
 * cannot be written.
 */
export async function branchRun(
  from: string,
  step: number,
  directory: string,
  config: RunConfig,
  origin: Origin,
  { progress = () => {}, signal }: BranchOptions = {},
): Promise<void> {
  const parent = readRun(from)
  const { recipe, rules, checkpoint, validation } = config
  const difference = firstDifference({ ...parent.config, recipe, rules, checkpoint, validation }, config)
  if (difference) throw new UserError(`a branch of ${from} differs from it in more than the recipe: ${difference}`)
  if (parent.origin.corpus !== origin.corpus)
    throw new UserError(`the text of data.files is not the one that ${from} was trained on`)
  if (step >= config.steps)
    throw new UserError(`a branch of ${from} at step ${step} has nothing to train: the run has ${config.steps} steps`)
  if (existsSync(directory) && readdirSync(directory).length > 0)
    throw new UserError(
      `run directory ${directory} is not empty; a branch wants a new one ("halfbyte resume" goes on with one begun before)`,
    )
  const saved = await inTurns(checkingCheckpoint(from, step, progress), signal)
  const place = resolve(directory)
  const partial = `${place}.partial`
  try {
    rmSync(partial, { recursive: true, force: true })
    await inTurns(copying(saved, from, partial, progress), signal)
    cutRecords(partial, step)
    const branch = { step, run: relative(dirname(place), resolve(from)), recipe: parent.config.recipe }
    const events = new RecordWriter(join(partial, names.events))
    events.write({ step, event: 'branched', run: branch.run, recipe: branch.recipe })
    events.sync()
    events.close()
    writeDurably(join(partial, names.config), [
      Buffer.from(configText({ config, origin: { ...origin, branch } }), 'utf8'),
    ])
    renameSync(partial, directory)
    syncDirectory(dirname(place))
  } catch (error) {
    discard(partial)
    if (!isSystemError(error)) throw error
    throw new UserError(`run directory ${directory} cannot be written: ${systemReason(error)}`)
  }
}
