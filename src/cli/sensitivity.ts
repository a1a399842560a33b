import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { type Policy, policyOf, policyText } from '../analysis/policy.ts'
import {
  type LayerSensitivity,
  type Measure,
  measures,
  type Sensitivity,
  sensitivity,
} from '../analysis/sensitivity.ts'
import { between, percent } from '../compare/summary.ts'
import { UserError } from '../config/errors.ts'
import { makeDirectory, replaceFile, wantWritable } from '../run/files.ts'
import { addProbeOptions, openProbe, type ProbeOptions } from './open_probe.ts'
import { renderTable } from './table.ts'

/** `15%` or `4`, checked against the number of layers once that is known. */
export function keptCount(text: string, layers: number): number {
  const [, number, sign] = /^(\d+(?:\.\d+)?)\s*(%?)$/.exec(text.trim()) ?? []
  const value = Number(number)
  const wrong = () =>
    new UserError(
      `--keep: found ${text}, wanted a share such as 15%, above 0 and at most 100, or a whole number, 1 to ${layers}, of the model's ${layers} linear layers`,
      2,
    )
  if (sign === '%') {
    if (!(value > 0 && value <= 100)) throw wrong()
    return Math.max(1, Math.round((value / 100) * layers))
  }
  if (!Number.isInteger(value) || value < 1 || value > layers) throw wrong()
  return value
}

const right = { align: 'right' } as const
const size = (share: number | null): string => (share === null ? '' : `${(100 * share).toPrecision(3)} %`)

function layerTable(layers: readonly LayerSensitivity[], kept: number): string {
  const rows = layers.map(layer => [
    String(layer.rank),
    layer.linear,
    layer.parameters.toLocaleString('en-US'),
    size(layer.weights),
    size(layer.activations),
    size(layer.gradients),
    size(layer.wgrad),
    layer.loss ? percent(layer.loss.relative_difference, 3) : 'not finite',
    between(layer.loss?.interval, 3),
    layer.score.toFixed(2),
    [layer.rank <= kept ? 'kept' : '', layer.high_in_run ? 'high in the run' : ''].filter(Boolean).join(', '),
  ])
  return renderTable(
    [
      { title: '', ...right },
      { title: 'linear layer' },
      { title: 'parameters', ...right },
      { title: 'weights', ...right },
      { title: 'activations', ...right },
      { title: 'gradients', ...right },
      { title: 'wgrad', ...right },
      { title: 'loss', ...right },
      { title: 'interval', ...right },
      { title: 'score', ...right },
      { title: '' },
    ],
    rows,
  )
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`

/** Whether the paper's finding, that the last blocks need precision most, is seen here. */
export function lastBlocksSentence({ last_blocks: last, by }: Pick<Sensitivity, 'last_blocks' | 'by'>): string {
  const { blocks, of_blocks: all, linears, among_most_sensitive: among, expected } = last
  const verdict =
    among === linears
      ? 'Here, as the paper finds, the last blocks are the most sensitive.'
      : among > expected
        ? 'Here part of the last blocks is; the paper finds that they are the most sensitive.'
        : 'Here the last blocks are not the most sensitive; the paper finds that they are.'
  const each = measures.map(measure => `${measure} ${last.by[measure]}`).join(', ')
  return `The last ${blocks} of ${count(all, 'block')} ha${blocks === 1 ? 's' : 've'} ${count(linears, 'linear layer')}; ${among} of them ${among === 1 ? 'is' : 'are'} among the ${linears} most sensitive by ${by} (${expected.toFixed(1)} in a random order).
${verdict} By each measure alone: ${each} of ${linears}.`
}

export function sensitivityText(found: Sensitivity, policy: Policy, path: string): string {
  const { run, recipe, step, by, layers, validation, draws, confidence } = found
  const high = layers.filter(({ high_in_run: kept }) => kept).length
  const lifted = high > 0 ? ` (of which the run keeps ${high} in high precision)` : ''
  return `${run}, recipe ${recipe}, step ${step}: ${layers.length} linear layers${lifted}, ranked with all of them quantised, by ${by}

${layerTable(layers, policy.kept.length)}

weights, activations, gradients: relative error of what is quantised; wgrad: of the product for the weight's gradient; over ${count(draws, 'draw')}.
loss: how far the loss on ${validation.tokens.toLocaleString('en-US')} held-out tokens falls when this layer alone is in high precision, from ${validation.loss.toFixed(4)};
interval: ${100 * confidence} %, Student's t over ${validation.batches} micro-batch${validation.batches === 1 ? '' : 'es'}. score: share of the other layers that suffer less, mean of the five.

${lastBlocksSentence(found)}

${path} keeps ${policy.kept.length} of ${layers.length} linear layers in high precision: ${(100 * policy.share).toFixed(1)} % of them, ${(100 * policy.parameter_share).toFixed(1)} % of their parameters.
To train with it: npx halfbyte train <config> --policy ${path}
`
}

interface SensitivityOptions extends ProbeOptions {
  keep: string
  by: Measure | 'score'
}

export function register(program: Command): void {
  const command = program
    .command('sensitivity')
    .description(
      'Rank the linear layers of a run by what quantising them costs, and write policy.yaml: rules that keep the most sensitive in BF16. Layers that the recipe keeps are quantised for the ranking, so that all are judged alike.',
    )
    .argument('<run>', 'run directory')
    .option('--keep <share or count>', 'how many linear layers the policy keeps in high precision', '15%')
    .addOption(
      new Option('--by <measure>', 'what to rank by; score: all five measures')
        .choices(['score', ...measures])
        .default('score'),
    )
  addProbeOptions(command, 4, 'policy.yaml and sensitivity.json')
    .addHelpText(
      'after',
      `
Examples:
  halfbyte sensitivity runs/tiny-001
  halfbyte sensitivity runs/tiny-001 --keep 4 --by loss --batches 32
  halfbyte train tiny --policy runs/tiny-001/policy.yaml     train with those layers in BF16
  halfbyte train tiny --policy runs/tiny-001/policy.yaml --dry-run`,
    )
    .action(async (directory: string, { keep, by, draws, out, json, ...options }: SensitivityOptions) => {
      const { probe, probed, bar, config, backend } = await openProbe(directory, options, 'to rank')
      let found: Sensitivity
      let kept: number
      const folder = out ?? directory
      try {
        wantWritable(folder)
        kept = keptCount(keep, probe.layers.sites.length)
        found = sensitivity(probe, {
          ...probed,
          draws,
          by,
        })
      } finally {
        bar.done()
        backend.close()
      }
      const policy = policyOf(found, kept, config, probe.layers.plain)
      const path = join(folder, 'policy.yaml')
      const { kept: layers, ...rest } = policy
      const all = { ...found, policy: { ...rest, path, kept: layers.map(({ linear }) => linear) } }
      makeDirectory(folder)
      replaceFile(path, policyText(policy, found))
      replaceFile(join(folder, 'sensitivity.json'), `${JSON.stringify(all, null, 1)}\n`)
      process.stdout.write(json ? `${JSON.stringify(all)}\n` : sensitivityText(found, policy, path))
    })
}
