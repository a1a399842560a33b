import { backends } from '../backends/open.ts'
import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import { openCorpus } from '../data/corpus.ts'
import { type DataPlan, planData } from '../data/plan.ts'
import { describeModel, type ModelDescription } from '../model/describe.ts'
import { checkModel } from '../model/model.ts'
import { formatCount } from '../run/quantities.ts'
import { renderTable } from './table.ts'

/** What `train --dry-run` prints: what a run would cost and which layers it would quantise. */

export const formatBytes = (bytes: number): string => {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3))
  const value = bytes / 1000 ** power
  return `${value.toFixed(value < 10 && power > 0 ? 2 : value < 100 && power > 0 ? 1 : 0)} ${units[power]}`
}

export interface DryRun extends ModelDescription {
  readonly name: string
  readonly recipe: string
  /** Rules of the config on top of the recipe. */
  readonly rules: number
  readonly steps: number
  readonly tokens: number
  readonly tokensPerStep: number
  readonly microBatches: number
}

export function describeRun(config: RunConfig): DryRun {
  const { model, data, steps } = config
  const recipe = recipeOf(config)
  checkModel(model, recipe, steps, data.sequence * data.micro_batch)
  const tokensPerStep = data.sequence * data.batch
  return {
    name: config.name,
    recipe: config.recipe,
    rules: config.rules.length,
    steps,
    tokens: steps * tokensPerStep,
    tokensPerStep,
    microBatches: data.batch / data.micro_batch,
    ...describeModel(model, recipe, data.sequence, 0, steps),
  }
}

/** `14 of 16 linear layers in nvfp4; 2 in bf16`. */
export function formatCounts({ formats, linears }: DryRun): string {
  const [first, ...others] = Object.entries(formats)
  if (!first) return 'no linear layers'
  const [format, count] = first
  return [
    `${count} of ${linears.length} linear layers in ${format}`,
    ...others.map(([name, number]) => `${number} in ${name}`),
  ].join('; ')
}

const left = { align: 'left' } as const
const right = { align: 'right' } as const

function linearTable({ linears }: DryRun): string {
  const rows = linears.map(({ name, rows: outputs, cols, format }) => [name, `${outputs} x ${cols}`, format])
  return renderTable(
    [
      { title: 'linear layer', ...left },
      { title: 'weight', ...right },
      { title: 'format', ...left },
    ],
    rows,
  )
}

/** What the run reads of files of its own; the corpus that comes with halfbyte needs no table. */
export function planOf(config: RunConfig): DataPlan | undefined {
  const { data, steps } = config
  if (data.files === 'embedded' && !data.blend) return undefined
  return planData(data, steps, openCorpus(data.files, data.tokenizer, data))
}

const columnWidth = 40
const shortened = (text: string): string => (text.length > columnWidth ? `…${text.slice(1 - columnWidth)}` : text)

function dataTable({ sources, phases, heldOut }: DataPlan): string {
  const parts =
    phases.length > 1 ? phases.map((share, i) => ({ title: `phase ${i + 1} (${+(share * 100).toFixed(2)} %)`, i })) : []
  const rows = sources.map(({ name, tokens, phases, trained, epochs }) => [
    shortened(name),
    formatCount(tokens),
    ...parts.map(({ i }) => formatCount(phases[i]!)),
    formatCount(trained),
    epochs.toFixed(epochs < 10 ? 2 : 1),
  ])
  const columns = ['tokens', ...parts.map(({ title }) => title), 'trained on', 'epochs']
  const table = renderTable([{ title: 'source', ...left }, ...columns.map(title => ({ title, ...right }))], rows)
  return `\n${table}\n${formatCount(heldOut)} tokens are held out for validation\n`
}

export function dryRunText(config: RunConfig, run = describeRun(config), plan = planOf(config)): string {
  const { kinds, flops, memory } = run
  const tokens = config.data.sequence * config.data.micro_batch
  const unpacks = backends[config.backend]!.panelColumns?.(config.level) !== undefined
  const panels = unpacks ? memory.panels : 0
  const saved = memory.inputsPerTokenBf16 - memory.inputsPerToken
  const parts = kinds.map(({ title, blocks, parameters }) => [
    title,
    String(blocks),
    parameters.toLocaleString('en-US'),
  ])
  const flop = (count: number) => formatCount(count).replace(/[A-Za-z]?$/, unit => ` ${unit}FLOP`)
  const perMicroBatch = (perToken: number) => formatBytes(perToken * tokens)
  const rules = run.rules === 0 ? '' : ` and ${run.rules} rule${run.rules === 1 ? '' : 's'} for layers`
  return `${run.name}: ${config.model.pattern}, recipe ${run.recipe}${rules}

${renderTable(
  [
    { title: 'part', ...left },
    { title: 'count', ...right },
    { title: 'parameters', ...right },
  ],
  [...parts, ['all', '', run.parameters.toLocaleString('en-US')]],
)}

${linearTable(run)}

formats        ${formatCounts(run)}
training       ${run.steps.toLocaleString('en-US')} steps of ${run.tokensPerStep.toLocaleString('en-US')} tokens (${run.microBatches} micro-batch${run.microBatches === 1 ? '' : 'es'} of ${config.data.micro_batch} x ${config.data.sequence}): ${formatCount(run.tokens)} tokens
computing      ${flop(flops.total)} per token: linear layers ${flop(flops.linears)}, mixers ${flop(flops.mixers)}, head ${flop(flops.head)}
memory         weights ${formatBytes(memory.weights)}, gradients ${formatBytes(memory.gradients)}, moments ${formatBytes(memory.moments)}, quantised weights ${formatBytes(memory.images)}${memory.copies > 0 ? `, weights in BF16 ${formatBytes(memory.copies)}` : ''}${panels > 0 ? `, unpacked for products ${formatBytes(panels)}` : ''}
activations    per micro-batch, kept for the backward pass: inputs of linear layers ${perMicroBatch(memory.inputsPerToken)}${saved > 0 ? ` (in BF16 they would take ${perMicroBatch(memory.inputsPerTokenBf16)}: ${perMicroBatch(saved)} saved)` : ''}, others ${perMicroBatch(memory.othersPerToken)}
${plan ? dataTable(plan) : ''}`
}
