import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { type Arm, type Comparison, compare, comparisonFile, readComparison } from '../compare/comparison.ts'
import { type ComparedRun, readComparedRun } from '../compare/runs.ts'
import { suites } from '../compare/suites.ts'
import { UserError } from '../config/errors.ts'
import { names } from '../run/layout.ts'
import { readEvents, readNumerics } from '../run/read.ts'
import type { EventRecord, NumericsRecord } from '../run/records.ts'

/** What a report is made of, read from the directory of a run, of a comparison, or of several. */

/** What the directory of a run holds. */
interface RecordedRun {
  readonly directory: string
  /** Undefined if the run has not begun, or is no longer there. */
  readonly run: ComparedRun | undefined
  readonly events: readonly EventRecord[]
  readonly numerics: readonly NumericsRecord[]
  /** When the last step was recorded. */
  readonly updated: Date | undefined
}

export interface ReportedArm extends RecordedRun {
  readonly arm: Arm
}

export interface ReportedComparison {
  /** Name of its folder. */
  readonly name: string
  /** Its recipes begin with the baseline. */
  readonly comparison: Comparison
  readonly arms: readonly ReportedArm[]
}

export interface ReportInput {
  /** `run`: a single run, with nothing to compare it to. */
  readonly kind: 'run' | 'comparison' | 'suites'
  readonly comparisons: readonly ReportedComparison[]
}

function readRecorded(directory: string): RecordedRun {
  const there = existsSync(join(directory, names.config))
  const metrics = join(directory, names.metrics)
  return {
    directory,
    run: there ? readComparedRun(directory) : undefined,
    events: there ? [...readEvents(directory)] : [],
    numerics: there ? [...readNumerics(directory)] : [],
    updated: existsSync(metrics) ? statSync(metrics).mtime : undefined,
  }
}

/** @param known runs that were read for other comparisons: suites share some. */
function readFolder(folder: string, known: Map<string, RecordedRun>): ReportedComparison {
  const comparison = readComparison(folder)
  const { arms, pairs, recipes, seeds, expected, differences } = comparison
  if (![arms, pairs, recipes, seeds, expected, differences].every(Array.isArray))
    throw new UserError(
      `${join(folder, comparisonFile)}: found a comparison without arms or pairs, wanted lists of them`,
    )
  const { baseline } = comparison
  const read = (directory: string): RecordedRun => {
    const run = known.get(directory) ?? readRecorded(directory)
    known.set(directory, run)
    return run
  }
  return {
    name: basename(resolve(folder)),
    comparison: { ...comparison, recipes: [baseline, ...recipes.filter(recipe => recipe !== baseline)] },
    arms: arms.map(arm => ({ arm, ...read(join(folder, arm.run)) })),
  }
}

function readSingle(directory: string): ReportedComparison {
  const recorded = readRecorded(directory)
  const read = recorded.run!
  const { recipe, seed, steps } = read.config
  const name = basename(resolve(directory))
  const comparison = compare({
    title: name,
    command: '',
    baseline: recipe,
    arms: [{ recipe, seed, steps, run: '.', read }],
  })
  return { name, comparison, arms: [{ arm: comparison.arms[0]!, ...recorded }] }
}

/** Folders below one, in the order of the suites, then by name. */
function foldersWith(directory: string, file: string): string[] {
  const known = Object.keys(suites)
  const rank = (name: string) => (known.includes(name) ? known.indexOf(name) : known.length)
  return readdirSync(directory, { withFileTypes: true })
    .filter(entry => entry.isDirectory() && existsSync(join(directory, entry.name, file)))
    .map(({ name }) => name)
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b, 'en', { numeric: true }))
}

/** @throws UserError if the directory is neither a run, nor a comparison, nor a folder of comparisons. */
export function readReport(directory: string): ReportInput {
  const wanted = `wanted a run directory (${names.config}), a comparison (${comparisonFile}) or a folder of comparisons`
  if (!existsSync(directory)) throw new UserError(`${directory} does not exist; ${wanted}`)
  if (!statSync(directory).isDirectory()) throw new UserError(`${directory} is a file; ${wanted}`)
  if (existsSync(join(directory, names.config))) return { kind: 'run', comparisons: [readSingle(directory)] }
  if (existsSync(join(directory, comparisonFile)))
    return { kind: 'comparison', comparisons: [readFolder(directory, new Map())] }
  const folders = foldersWith(directory, comparisonFile)
  if (folders.length > 0) {
    const known = new Map<string, RecordedRun>()
    return { kind: 'suites', comparisons: folders.map(name => readFolder(join(directory, name), known)) }
  }
  const [first, second] = foldersWith(directory, names.config)
  if (first !== undefined) {
    const [a, b] = [join(directory, first), join(directory, second ?? '...')]
    throw new UserError(
      `${directory} holds runs but no comparison; report one of them, or compare some first: halfbyte compare ${a} ${b} --out DIR`,
    )
  }
  const found = readdirSync(directory).length === 0 ? 'is empty' : 'holds neither runs nor comparisons'
  throw new UserError(`${directory} ${found}; ${wanted}`)
}
