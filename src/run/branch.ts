import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { UserError } from '../config/errors.ts'
import { firstDifference } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { readCheckpoint } from './checkpoint.ts'
import { checkpointDirectory, names, recordFiles } from './layout.ts'
import { configText, type Origin, readRun } from './read.ts'
import { cutRecords, RecordWriter } from './records.ts'

/**
 * Makes `directory` a run that goes on from the checkpoint of `step` of the run `from`, under `config`, which may name another recipe. It
 * has the records of `from` up to that step, so that its curves are whole, an event `branched`, and in its config.json where it came from.
 * Training opens it as any unfinished run.
 * @throws UserError if `from` has no intact checkpoint of that step, if more than the recipe and its rules differ, or if `directory` is in use.
 */
export function branchRun(from: string, step: number, directory: string, config: RunConfig, origin: Origin): void {
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
  const saved = readCheckpoint(from, step)
  const partial = `${resolve(directory)}.partial`
  try {
    rmSync(partial, { recursive: true, force: true })
    mkdirSync(join(partial, names.checkpoints), { recursive: true })
    cpSync(saved.directory, checkpointDirectory(partial, step), { recursive: true })
    for (const name of recordFiles)
      if (existsSync(join(from, name))) copyFileSync(join(from, name), join(partial, name))
    cutRecords(partial, step)
    const branch = { step, run: relative(dirname(resolve(directory)), resolve(from)), recipe: parent.config.recipe }
    const events = new RecordWriter(join(partial, names.events))
    events.write({ step, event: 'branched', run: branch.run, recipe: branch.recipe })
    events.close()
    writeFileSync(join(partial, names.config), configText({ config, origin: { ...origin, branch } }))
    renameSync(partial, directory)
  } catch (error) {
    rmSync(partial, { recursive: true, force: true })
    throw error
  }
}
