import { rmdirSync } from 'node:fs'
import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { unknownName } from '../config/keys.ts'
import { overrideConfig } from '../config/load.ts'
import { recipes } from '../recipes/recipes.ts'
import { branchRun } from '../run/branch.ts'
import { createRunDirectory } from '../run/open.ts'
import { readRun } from '../run/read.ts'
import { packageVersion } from './main.ts'
import { showWork } from './progress.ts'
import { wholeNumber } from './session.ts'
import { stoppable } from './signals.ts'
import { trainInTerminal } from './train.ts'

interface BranchOptions {
  at: number
  recipe: string
  steps?: number
  run?: string
}

export function register(program: Command): void {
  program
    .command('branch')
    .description(
      'Go on from a checkpoint of a run under another recipe, in a run of its own. The first run is left as it is.',
    )
    .argument('<run>', 'run directory; it may be training')
    .argument(
      '[overrides...]',
      'rules=<file>, and keys that change no numbers, such as threads=4 or validation.every=50',
    )
    .requiredOption('--at <step>', 'step of the checkpoint to go on from', wholeNumber(0))
    .requiredOption('--recipe <name>', 'recipe from there on')
    .option('--steps <count>', 'stop after so many steps; default: to the end of the run', wholeNumber(1))
    .option('--run <directory>', 'directory of the new run; default: runs/<name>-NNN')
    .addHelpText(
      'after',
      `
Learning rate and data go on as they would have. With --steps the new run can be continued by "halfbyte resume".

Examples:
  halfbyte branch runs/tiny-001 --at 1000 --recipe bf16                what would BF16 do from here?
  halfbyte branch runs/tiny-001 --at 1000 --recipe bf16 --steps 50     a short check of a running training`,
    )
    .action(async (from: string, overrides: string[], { at, recipe, steps, run }: BranchOptions) => {
      if (!Object.hasOwn(recipes, recipe)) throw new UserError(unknownName('recipe', recipe, Object.keys(recipes)), 2)
      const { config: parent, origin } = readRun(from)
      const config = overrideConfig(parent, [...overrides, `recipe=${recipe}`])
      const directory = run ?? createRunDirectory(config.name)
      const work = showWork()
      const here = { ...origin, halfbyte: packageVersion() }
      try {
        await stoppable(signal => branchRun(from, at, directory, config, here, { progress: work, signal }), work.done)
      } catch (error) {
        if (run === undefined) rmdirSync(directory)
        throw error
      }
      await trainInTerminal(directory, config, steps === undefined ? {} : { until: Math.min(config.steps, at + steps) })
    })
}
