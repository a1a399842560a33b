import { join } from 'node:path'
import type { Command } from 'commander'
import { presets } from '../../presets/index.ts'
import { commandLine } from '../compare/command.ts'
import { type Comparison, compare, writeComparison } from '../compare/comparison.ts'
import { type Suite, type SuiteArm, suites } from '../compare/suites.ts'
import { UserError } from '../config/errors.ts'
import { unknownName } from '../config/keys.ts'
import { loadConfig } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { stepOf } from '../recipes/resolve.ts'
import { makeDirectory } from '../run/files.ts'
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

/** `fig6,fig8` or `all` as rows of the table of suites, in the table's order for `all`. */
function suiteList(text: string): Suite[] {
  if (text === 'all') return Object.values(suites)
  return [...new Set(text.split(','))].map(name => {
    if (!Object.hasOwn(suites, name))
      throw new UserError(unknownName('suite', name, [...Object.keys(suites), 'all']), 2)
    return suites[name]!
  })
}

interface PlannedSuite {
  readonly suite: Suite
  readonly runs: readonly PlannedRun[]
  /** Why arms of it cannot be trained with this model. */
  readonly impossible: readonly string[]
}

function planArm(base: RunConfig, out: string, { recipe, branch }: SuiteArm, seed: number): PlannedRun {
  const config = armConfig(base, recipe, seed)
  if (!branch) return { recipe, seed, config, directory: runDirectory(out, recipe, seed) }
  const step = stepOf({ share: branch.at }, config.steps)
  if (step >= config.steps)
    throw new UserError(
      `${recipe} branches at ${100 * branch.at} % of the steps, which leaves none of ${config.steps} to train: give more steps`,
    )
  return {
    recipe,
    seed,
    config,
    directory: runDirectory(out, recipe, seed, step),
    branch: {
      step,
      directory: runDirectory(out, branch.recipe, seed),
      config: armConfig(base, branch.recipe, seed),
    },
  }
}

/** The runs of a suite, seed by seed; arms that the model's sizes do not allow are left out and named. */
function planSuite(base: RunConfig, out: string, suite: Suite, seeds: number): PlannedSuite {
  const impossible = new Set<string>()
  const runs = Array.from({ length: seeds }, (_, i) => base.seed + i).flatMap(seed =>
    suite.arms.flatMap(arm => {
      try {
        return [planArm(base, out, arm, seed)]
      } catch (error) {
        if (!(error instanceof UserError) || arm.recipe === suite.baseline) throw error
        impossible.add(error.message)
        return []
      }
    }),
  )
  return { suite, runs, impossible: [...impossible] }
}

/** Runs of several suites, each once. */
function uniqueRuns(planned: readonly PlannedSuite[]): PlannedRun[] {
  const byDirectory = new Map<string, PlannedRun>()
  for (const { runs } of planned)
    for (const run of runs) if (!byDirectory.has(run.directory)) byDirectory.set(run.directory, run)
  return [...byDirectory.values()]
}

interface AblateOptions extends TrainingOptions {
  suite: string
  seeds: number
  out?: string
}

async function ablate(source: string, overrides: readonly string[], options: AblateOptions): Promise<void> {
  const { seeds, json } = options
  const chosen = suiteList(options.suite)
  const load = (keys: readonly string[]) => loadConfig(source, keys, presets)
  const out = options.out ?? join('runs', `${load(overrides).name}-ablations`)
  const folders = chosen.map(({ name }) => join(out, name))
  const { base, keys } = await fittedConfig(load, overrides, options, folders, config =>
    uniqueRuns(chosen.map(suite => planSuite(config, out, suite, seeds))).map(({ config, branch }) => ({
      config,
      part: 1 - (branch?.step ?? 0) / config.steps,
    })),
  )
  const planned = chosen.map(suite => planSuite(base, out, suite, seeds))
  const describe = ({ suite, runs, impossible }: PlannedSuite, note?: string): Comparison => {
    const { name, title, baseline, order } = suite
    const folder = join(out, name)
    const words = ['halfbyte', 'ablate', source, '--suite', name, '--seeds', seeds, '--out', out, ...keys]
    const all = [...impossible.map(why => `left out: ${why}`), ...(note ? [note] : [])].join('\n')
    const comparison = compare({
      title: `${name}, ${title}, on ${base.name}`,
      command: commandLine(words),
      baseline,
      arms: readArms(runs, folder),
      order,
      note: all || undefined,
    })
    makeDirectory(folder)
    writeComparison(folder, comparison)
    return comparison
  }
  const changed = (directory: string) => {
    for (const each of planned) if (each.runs.some(run => run.directory === directory)) describe(each)
  }
  const note = notes[await conductAll(uniqueRuns(planned), options, changed)]
  const comparisons = planned.map(each => describe(each, note))
  if (json) process.stdout.write(`${JSON.stringify(comparisons.length === 1 ? comparisons[0] : comparisons)}\n`)
  else process.stdout.write(`\n${comparisons.map(comparisonText).join('\n')}\n${explanation(comparisons[0]!)}`)
}

export function register(program: Command): void {
  const width = Math.max(...Object.keys(suites).map(name => name.length))
  const list = Object.values(suites).map(({ name, title }) => `  ${name.padEnd(width)}  ${title}`)
  addTrainingOptions(program.command('ablate'))
    .description(
      "Train the arms of one of the paper's figures with your model, and compare them with the order that the paper finds. Goes on where it was interrupted.",
    )
    .argument('<config>', 'a preset or config file')
    .argument('[overrides...]', 'key=value, keys dotted as in the config')
    .requiredOption('--suite <names>', 'figures, separated by commas, or all')
    .option('--seeds <count>', 'seeds, from the config’s own on', wholeNumber(1), 3)
    .option('--out <directory>', 'where runs and comparisons go; default: runs/<name>-ablations')
    .addHelpText(
      'after',
      `
Suites, in the order of "all": what tells most comes first. Runs that suites share are trained once.
${list.join('\n')}

Examples:
  halfbyte ablate tiny --suite fig6
  halfbyte ablate tiny --suite all --seeds 1 steps=50         every arm, briefly
  halfbyte ablate small --suite all --budget 8h --out runs/paper`,
    )
    .action(ablate)
}
