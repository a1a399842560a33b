import { type Command, Option } from 'commander'
import { UserError } from '../config/errors.ts'
import { openTokenizer } from '../data/tokenizers.ts'
import { type Progress, wantNew } from '../export/folder.ts'
import type { ExportDtype } from '../export/hf.ts'
import { type Exported, targets } from '../export/targets.ts'
import { openExportedRun } from '../export/weights.ts'
import { formatBytes } from './dry_run.ts'
import { showWork } from './progress.ts'
import { wholeNumber } from './session.ts'
import { stoppable } from './signals.ts'

/** Sizes as people write them, in powers of ten. */
const units: Readonly<Record<string, number>> = { '': 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 }

/** `5GB` in bytes. */
function sizeOf(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? []
  const bytes = Number(number) * (units[(unit ?? '?').toUpperCase()] ?? Number.NaN)
  if (!(bytes >= 1)) throw new UserError(`--shard-size: found ${text}, wanted a size such as 500MB or 5GB`, 2)
  return bytes
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

async function exportRun(directory: string, { to, out, dtype, shardSize, step, json }: Options): Promise<void> {
  const target = targets[to]!
  wantNew(out)
  const work = showWork()
  const run = openExportedRun(directory, step, work.note, work)
  const progress: Progress = (bytes, total) => work(bytes, total, `writing ${out}`)
  try {
    const result = await stoppable(async signal => {
      const options = { dtype: dtype ?? target.dtype, shardBytes: shardSize, progress, note: work.note, signal }
      return target.write(run, openTokenizer(run.config.data.tokenizer), out, options)
    }, work.done)
    process.stdout.write(
      json
        ? `${JSON.stringify({ out, to, step: run.step, ...result })}\n`
        : `${out}: step ${run.step} of ${directory}, ${result.tensors} tensors, ${formatBytes(result.bytes)}\n${packedText(result)}`,
    )
  } finally {
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
      new Option('--dtype <name>', 'of values that stay floats; f32: the weights as the optimizer keeps them').choices([
        'f32',
        'bf16',
      ]),
    )
    .addOption(
      new Option('--shard-size <size>', 'tensors in one file of a folder, such as 500MB')
        .argParser(sizeOf)
        .default(5e9, '5GB'),
    )
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Layouts:
${formats.join('\n')}

A folder has config.json, model.safetensors (or shards with an index), tokenizer.json and generation_config.json. FP4 codes, block scales and
largest magnitudes are those of training, never quantised again. Values that stay floats are f32 with hf and bf16 elsewhere, unless --dtype
says otherwise. All is written beside the place and renamed at the end: nothing is left behind if writing fails or is stopped.

Examples:
  halfbyte export runs/tiny-001 --to hf --out tiny-hf
  halfbyte export runs/tiny-001 --to hf --dtype bf16 --shard-size 2GB --out tiny-bf16
  halfbyte export runs/tiny-001 --to compressed-tensors --out tiny-nvfp4
  halfbyte export runs/tiny-001 --to gguf --out tiny.gguf`,
    )
    .action(exportRun)
}
