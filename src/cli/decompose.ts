import { join } from 'node:path'
import type { Command } from 'commander'
import type { Branching } from '../analysis/branches.ts'
import { type Decomposition, type DecompositionRow, decompose } from '../analysis/decompose.ts'
import { Probe } from '../analysis/probe.ts'
import { between, percent } from '../compare/summary.ts'
import { UserError } from '../config/errors.ts'
import { listCheckpoints } from '../run/checkpoint.ts'
import { makeDirectory, replaceFile, wantWritable } from '../run/files.ts'
import { Trainer } from '../train/trainer.ts'
import { addProbeOptions, fromOne, type OpenedProbe, openProbe, type ProbeOptions } from './open_probe.ts'
import { openConfigured } from './session.ts'
import { renderTable } from './table.ts'

interface DecomposeOptions extends ProbeOptions {
  steps?: number
}

const right = { align: 'right' } as const

/** Layers that a terminal shows; all are in decomposition.json. */
const mostLayers = 24

const cell = (value: number | null | undefined, digits = 4): string => (value == null ? '' : value.toFixed(digits))
const size = (share: number): string => `${(100 * share).toPrecision(3)} %`
/** Where nothing differs, the interval says nothing. A star marks a difference that is resolved. */
function difference({
  relative_difference: found,
  interval,
  against_recipe: own,
}: Partial<DecompositionRow>): string[] {
  const against = own ? `${percent(own.relative_difference)}${own.resolved ? '*' : ' '}` : ''
  return found === undefined ? ['', '', ''] : [percent(found), found === 0 ? '' : between(interval), against]
}

function rowTable({ rows }: Decomposition): string {
  const columns = ['loss', 'difference', 'interval', 'from recipe', 'cosine', 'bias', 'variance', 'with fprop']
  const lines = rows.map(row => {
    const { name, left_out: leftOut, validation_loss: loss, gradient, gradient_with_fprop: whole } = row
    if (leftOut !== null) return [name, 'left out']
    const errors = gradient ? [cell(gradient.cosine), size(gradient.bias), size(gradient.variance)] : ['', '', '']
    return [name, loss === null ? 'not finite' : cell(loss), ...difference(row), ...errors, cell(whole?.cosine)]
  })
  return renderTable([{ title: '' }, ...columns.map(title => ({ title, ...right }))], lines)
}

/** What some steps of training make of it. */
function branchTable({ rows, branches }: Decomposition): string {
  if (!branches) return ''
  const lines = rows.flatMap(({ name, branch }) => {
    if (!branch) return []
    if (branch.diverged) return [[name, `diverged at step ${branch.diverged.step}: ${branch.diverged.reason}`]]
    return [[name, cell(branch.loss), cell(branch.validation_loss), ...difference(branch)]]
  })
  const columns = ['training loss', 'loss', 'difference', 'interval', 'from recipe']
  return `
${renderTable([{ title: `${branches.steps} steps on` }, ...columns.map(title => ({ title, ...right }))], lines)}
`
}

/** Errors of the gradient of each layer's weight: of the recipe's products, together and alone. */
function layerTable({ rows, recipe }: Decomposition): string {
  const own = rows.filter(({ name }) => name === recipe || name.endsWith(' alone'))
  const columns = own.flatMap(({ name, gradient, gradient_with_fprop: whole }) => [
    ...(whole ? [{ title: name === recipe ? 'all products' : name, layers: whole.layers }] : []),
    ...(gradient ? [{ title: name === recipe ? 'dgrad and wgrad' : name, layers: gradient.layers }] : []),
  ])
  const [first] = columns
  if (!first) return ''
  const worst = [...first.layers.keys()]
    .sort((a, b) => first.layers[b]!.error - first.layers[a]!.error)
    .slice(0, mostLayers)
  const lines = worst
    .sort((a, b) => a - b)
    .map(i => [first.layers[i]!.linear, ...columns.map(({ layers }) => size(layers[i]!.error))])
  const titles = [{ title: 'error of the gradient of' }, ...columns.map(({ title }) => ({ title, ...right }))]
  const rest = first.layers.length - worst.length
  const more = rest > 0 ? `\n(and ${rest} layers with less, in decomposition.json)` : ''
  return `${renderTable(titles, lines)}${more}\n`
}

export function decompositionText(found: Decomposition): string {
  const { run, recipe, step, validation, gradient, rows, confidence, branches } = found
  const tokens = (count: number) => `${count.toLocaleString('en-US')} tokens`
  const later = branches
    ? `\nSteps on: trained from the checkpoint on the batches and with the learning rates that the run would have had; training loss: mean over the last fifth.`
    : ''
  const leftOut = rows.flatMap(({ name, left_out: why }) => (why === null ? [] : [`left out: ${name}: ${why}\n`]))
  return `${run}, recipe ${recipe}, step ${step}

${rowTable(found)}
${leftOut.join('')}${branchTable(found)}
${layerTable(found)}
loss: nats per token on ${tokens(validation.tokens)} held out, the same for every row. Difference: (unquantised - row) / unquantised, negative is worse;
interval: ${100 * confidence} %, Student's t over ${validation.batches} micro-batches. From recipe: the same against the recipe's row; * where the interval leaves out zero.
cosine, bias, variance: what dgrad and wgrad do to the gradient of all parameters on ${tokens(gradient.tokens)}, fprop being unquantised, over ${gradient.draws} draws
of the random decisions; bias relative to the gradient's norm, variance to its square; with fprop: the cosine where fprop is quantised too.
Error: of the gradient of one layer's weight, root of bias squared plus variance.${later}
`
}

/** Short branches from the checkpoint, each on a backend of its own whose memory goes back with it. */
function branchingFrom(opened: OpenedProbe, directory: string, steps: number, batches: number): Branching {
  const { config, corpus, checkpoint, probe } = opened
  const { step } = checkpoint.state
  if (step + steps > config.steps) {
    const earlier = listCheckpoints(directory).filter(other => other < step)
    const advice =
      earlier.length > 0 ? `name an earlier one with --step (${earlier.join(', ')})` : 'the run has no earlier one'
    throw new UserError(
      `--steps: found ${steps}, but the checkpoint is of step ${step} and the run ends at ${config.steps}; ${advice}`,
      2,
    )
  }
  return {
    steps,
    checkpoint,
    open: async (recipe, body) => {
      const backend = await openConfigured(config)
      try {
        const trainer = new Trainer(config, backend, corpus, { recipe, empty: true })
        const own = new Probe(trainer, corpus, step, batches, probe.work)
        return body(trainer, () => own.losses(recipe))
      } finally {
        backend.close()
      }
    },
  }
}

export function register(program: Command): void {
  const command = program
    .command('decompose')
    .description(
      'From a checkpoint, what each product (fprop, dgrad, wgrad) and each technique of the recipe costs: losses on the same held-out batches, and errors of the gradient. Nothing of the run is changed; decomposition.json is written into it.',
    )
    .argument('<run>', 'run directory')
    .option('--steps <count>', 'also train so many steps from the checkpoint in each way, on the same batches', fromOne)
  addProbeOptions(command, 16, 'decomposition.json')
    .addHelpText(
      'after',
      `
Rows: nothing quantised; the recipe; each product alone; each technique removed, or added where the recipe lacks it. They are made
from the recipe's own data, in the phase that it was in at the checkpoint, so any recipe that quantises can be taken apart.

Examples:
  halfbyte decompose runs/tiny-001
  halfbyte decompose runs/tiny-001 --step 1000 --steps 50     and what 50 steps make of it
  halfbyte decompose runs/tiny-001 --batches 64 --json > parts.json`,
    )
    .action(async (directory: string, { draws, steps, out, json, ...options }: DecomposeOptions) => {
      const opened = await openProbe(directory, options, 'to decompose')
      const { probe, probed, bar, backend } = opened
      const { batches } = probe.sizes
      const folder = out ?? directory
      let found: Decomposition
      try {
        wantWritable(folder)
        found = await decompose(probe, {
          ...probed,
          draws,
          branching: steps === undefined ? undefined : branchingFrom(opened, directory, steps, batches),
        })
      } finally {
        bar.done()
        backend.close()
      }
      makeDirectory(folder)
      replaceFile(join(folder, 'decomposition.json'), `${JSON.stringify(found, null, 1)}\n`)
      process.stdout.write(json ? `${JSON.stringify(found)}\n` : decompositionText(found))
    })
}
