import { existsSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { Command } from 'commander'
import { presets } from '../../presets/index.ts'
import { commandLine } from '../compare/command.ts'
import { type Comparison, compare, comparisonFile, readComparison, writeComparison } from '../compare/comparison.ts'
import { readComparedRun } from '../compare/runs.ts'
import { UserError } from '../config/errors.ts'
import { unknownName } from '../config/keys.ts'
import { loadConfig } from '../config/load.ts'
import { recipes } from '../recipes/recipes.ts'
import { makeDirectory } from '../run/files.ts'
import { names } from '../run/layout.ts'
import { type PlannedRun, runDirectory } from './compare_arms.ts'
import { comparisonText, explanation } from './compare_table.ts'
import {
  addTrainingOptions,
  armConfig,
  conductAll,
  fittedConfig,
  notes,
  readArms,
  type TrainingOptions,
} from './compare_training.ts'
import { wholeNumber } from './session.ts'

/** `bf16,nvfp4` as names of the table of recipes, each once. */
export function recipeList(text: string): string[] {
  const list = [
    ...new Set(
      text
        .split(',')
        .map(name => name.trim())
        .filter(Boolean),
    ),
  ]
  for (const name of list)
    if (!Object.hasOwn(recipes, name)) throw new UserError(unknownName('recipe', name, Object.keys(recipes)), 2)
  if (list.length === 0) throw new UserError('--recipes: found none, wanted names such as bf16,nvfp4', 2)
  return list
}

export const printComparison = (comparison: Comparison, json: boolean | undefined): void => {
  process.stdout.write(
    json ? `${JSON.stringify(comparison)}\n` : `\n${comparisonText(comparison)}\n${explanation(comparison)}`,
  )
}

interface CompareOptions extends TrainingOptions {
  recipes?: string
  seeds: number
  out?: string
  baseline?: string
}

const isRun = (path: string): boolean => existsSync(join(path, names.config))

/** Runs that are there already. */
function compareRuns(directories: readonly string[], { baseline, out, json }: CompareOptions): void {
  const folder = out ?? '.'
  const arms = directories.map(directory => {
    const read = readComparedRun(directory)
    const { recipe, seed, steps } = read.config
    return { recipe, seed, steps, run: relative(folder, directory), read }
  })
  const comparison = compare({
    title: `${arms.length} runs`,
    command: commandLine([
      'halfbyte',
      'compare',
      ...directories,
      ...(baseline ? ['--baseline', baseline] : []),
      ...(out ? ['--out', out] : []),
    ]),
    baseline: baseline ?? arms[0]!.recipe,
    arms,
  })
  if (out) {
    makeDirectory(out)
    writeComparison(out, comparison)
  }
  printComparison(comparison, json)
}

async function trainAndCompare(source: string, overrides: readonly string[], options: CompareOptions): Promise<void> {
  const { seeds, out, json } = options
  if (!out) throw new UserError('--out: missing, wanted the directory of the comparison', 2)
  if (!options.recipes) throw new UserError('--recipes: missing, wanted names such as bf16,nvfp4', 2)
  const list = recipeList(options.recipes)
  const baseline = options.baseline ?? list[0]!
  if (!list.includes(baseline))
    throw new UserError(`--baseline: found ${baseline}, wanted one of the recipes ${list.join(', ')}`, 2)
  const { base, keys } = await fittedConfig(
    keys => loadConfig(source, keys, presets),
    overrides,
    options,
    [out],
    config => list.flatMap(recipe => Array(seeds).fill({ config: armConfig(config, recipe, config.seed), part: 1 })),
  )
  const planned = Array.from({ length: seeds }, (_, i) => base.seed + i).flatMap(seed =>
    list.map((recipe): PlannedRun => {
      return { recipe, seed, config: armConfig(base, recipe, seed), directory: runDirectory(out, recipe, seed) }
    }),
  )
  const trained = ['halfbyte', 'compare', source, '--recipes', list.join(','), '--seeds', seeds, '--out', out]
  const command = commandLine([...trained, ...(options.baseline ? ['--baseline', baseline] : []), ...keys])
  const now = (note?: string) => {
    const input = { title: base.name, command, baseline, note }
    const comparison = compare({ ...input, arms: readArms(planned, out) })
    writeComparison(out, comparison)
    return comparison
  }
  makeDirectory(out)
  printComparison(now(notes[await conductAll(planned, options, () => void now())]), json)
}

export function register(program: Command): void {
  addTrainingOptions(program.command('compare'))
    .description(
      'Train a config under several recipes with the same seeds, and say what lies between them. Goes on where it was interrupted. With run directories, or that of a comparison, only compares.',
    )
    .argument('<config>', 'a preset or config file; or run directories to compare as they are')
    .argument('[overrides...]', 'key=value, keys dotted as in the config; or further run directories')
    .option('--recipes <names>', 'recipes, separated by commas; the first is the baseline')
    .option('--seeds <count>', 'seeds, from the config’s own on', wholeNumber(1), 3)
    .option('--out <directory>', 'where the runs and comparison.json go')
    .option('--baseline <recipe>', 'what the others are compared with, if not the first')
    .addHelpText(
      'after',
      `
Runs of one seed share their initial weights and the order of their data. A run that diverges is reported and the others go on.

Examples:
  halfbyte compare tiny --recipes bf16,fp8,nvfp4,mxfp4 --out runs/formats
  halfbyte compare tiny --recipes bf16,nvfp4 --seeds 5 --out runs/five steps=400
  halfbyte compare tiny --recipes bf16,nvfp4 --out runs/hour --budget 1h --fit --jobs 4
  halfbyte compare runs/formats                     the table again
  halfbyte compare runs/tiny-001 runs/tiny-002      runs that are there already`,
    )
    .action(async (source: string, others: string[], options: CompareOptions) => {
      if (isRun(source)) return compareRuns([source, ...others], options)
      if (existsSync(join(source, comparisonFile))) return printComparison(readComparison(source), options.json)
      if (existsSync(source) && statSync(source).isDirectory())
        throw new UserError(
          `${source} is neither a run directory nor one of a comparison: wanted ${names.config} or ${comparisonFile}`,
          2,
        )
      return trainAndCompare(source, others, options)
    })
}
