import { type Command, Option } from 'commander'
import { UserError } from '../config/errors.ts'
import { openTokenizer } from '../data/tokenizers.ts'
import type { Progress } from '../export/folder.ts'
import type { ExportDtype } from '../export/hf.ts'
import { type Exported, targets } from '../export/targets.ts'
import { openExportedRun } from '../export/weights.ts'
import { formatBytes } from './dry_run.ts'
import { toStderr, wholeNumber } from './session.ts'

/** Sizes as people write them, in powers of ten. */
const units: Readonly<Record<string, number>> = { '': 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 }

/** `5GB` in bytes. */
function sizeOf(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? []
  const bytes = Number(number) * (units[(unit ?? '?').toUpperCase()] ?? Number.NaN)
  if (!(bytes >= 1)) throw new UserError(`--shard-size: found ${text}, wanted a size such as 500MB or 5GB`, 2)
  return bytes
}

/** One line on a terminal's stderr, redrawn; elsewhere nothing. */
export function progressLine(what: string): Progress & { done(): void } {
  const { stderr } = process
  let drawn = 0
  const draw: Progress = (bytes, total) => {
    const now = performance.now()
    if (!stderr.isTTY || now - drawn < 100) return
    drawn = now
    stderr.write(`\r\x1b[2K${what}: ${formatBytes(bytes)} of ${formatBytes(total)}`)
  }
  return Object.assign(draw, {
    done: () => {
      if (drawn > 0) stderr.write('\r\x1b[2K')
    },
  })
}

interface Options {
  to: string
  out: string
  dtype?: ExportDtype
  shardSize: number
  step?: number
  json?: boolean
}

/** What became of the linear layers. */
function packedText({ packed }: Exported): string {
  if (!packed) return ''
  const { format, quantised, linears, inputs, quantisedBytes, bf16Bytes } = packed
  return `${quantised} of ${linears} linear layers in ${format}, ${inputs ? 'inputs as well' : 'weights alone'}: ${formatBytes(quantisedBytes)}, ${(bf16Bytes / quantisedBytes).toFixed(2)} times smaller than in BF16\n`
}

function exportRun(directory: string, { to, out, dtype, shardSize, step, json }: Options): void {
  const target = targets[to]!
  const warn = (sentence: string) => toStderr(`halfbyte: ${sentence}`)
  const run = openExportedRun(directory, step, warn)
  const progress = progressLine(`writing ${out}`)
  try {
    const options = { dtype: dtype ?? target.dtype, shardBytes: shardSize, progress, note: warn }
    const tokenizer = openTokenizer(run.config.data.tokenizer)
    const result = target.write(run, tokenizer, out, options)
    progress.done()
    if (json) {
      process.stdout.write(`${JSON.stringify({ out, to, step: run.step, ...result })}\n`)
      return
    }
    process.stdout.write(
      `${out}: step ${run.step} of ${directory}, ${result.tensors} tensors, ${formatBytes(result.bytes)}\n${packedText(result)}`,
    )
  } finally {
    progress.done()
    run.close()
  }
}

export function register(program: Command): void {
  const formats = Object.entries(targets).map(([name, { title }]) => `  ${name.padEnd(18)}  ${title}`)
  program
    .command('export')
    .description('Write the weights of a run in a layout that other programs read.')
    .argument('<run>', 'run directory; it may be training')
    .addOption(new Option('--to <layout>', 'layout').choices(Object.keys(targets)).makeOptionMandatory())
    .requiredOption('--out <path>', 'what to write; must be new')
    .addOption(
      new Option('--dtype <name>', 'of floats: f32 are the weights that the optimizer keeps').choices(['f32', 'bf16']),
    )
    .option('--shard-size <size>', 'bytes of tensors in one file of a folder', sizeOf, 5e9)
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Layouts:
${formats.join('\n')}

A folder has config.json, model.safetensors (or shards with an index), tokenizer.json and generation_config.json. Default dtype: ${Object.entries(
        targets,
      )
        .map(([name, { dtype }]) => `${name} ${dtype}`)
        .join(', ')}.
Nothing is left behind if writing fails: all is written beside the place and renamed at the end.

Examples:
  halfbyte export runs/tiny-001 --to hf --out tiny-hf
  halfbyte export runs/tiny-001 --to hf --dtype bf16 --shard-size 2GB --out tiny-hf`,
    )
    .action(exportRun)
}
