import type { Command } from 'commander'
import { presets } from '../../presets/index.ts'
import { purposes } from '../../presets/purposes.ts'
import { loadConfig } from '../config/load.ts'
import { describeModel } from '../model/describe.ts'
import { recipes } from '../recipes/recipes.ts'
import { formatCount } from '../run/quantities.ts'
import { renderTable } from './table.ts'

export interface PresetRow {
  readonly name: string
  readonly parameters: number
  /** Blocks of each kind, such as `4M 1* 3-`. */
  readonly blocks: string
  readonly hidden: number
  /** Tokens of the whole run. */
  readonly tokens: number
  readonly steps: number
  readonly recipe: string
  readonly purpose: string
}

const countBlocks = (pattern: string): string =>
  [...new Set(pattern)].map(kind => `${pattern.split(kind).length - 1}${kind}`).join(' ')

export const presetRows = (): PresetRow[] =>
  Object.keys(presets).map(name => {
    const { model, recipe, steps, data } = loadConfig(name, [], presets)
    return {
      name,
      parameters: describeModel(model, recipes[recipe]!, data.sequence).parameters,
      blocks: countBlocks(model.pattern),
      hidden: model.hidden,
      tokens: steps * data.batch * data.sequence,
      steps,
      recipe,
      purpose: purposes[name] ?? '',
    }
  })

export function register(program: Command): void {
  program
    .command('presets')
    .description('List the presets: configs to train as they are, to override or to extend.')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Blocks: M Mamba-2, * attention, - feed-forward.

Examples:
  halfbyte presets
  halfbyte train small --dry-run     what one of them costs, before it is run
  halfbyte train tiny steps=100      one of them with another number of steps`,
    )
    .action(({ json }: { json?: boolean }) => {
      const rows = presetRows()
      if (json) {
        process.stdout.write(JSON.stringify(rows, null, 2) + '\n')
        return
      }
      const columns = [
        { title: 'preset' },
        { title: 'parameters', align: 'right' },
        { title: 'blocks' },
        { title: 'hidden', align: 'right' },
        { title: 'steps', align: 'right' },
        { title: 'tokens', align: 'right' },
        { title: 'recipe' },
        { title: 'purpose' },
      ] as const
      const cells = rows.map(row => [
        row.name,
        row.parameters.toLocaleString('en-US'),
        row.blocks,
        String(row.hidden),
        row.steps.toLocaleString('en-US'),
        formatCount(row.tokens),
        row.recipe,
        row.purpose,
      ])
      process.stdout.write(renderTable(columns, cells) + '\n')
    })
}
