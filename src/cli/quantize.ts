import { type Command, InvalidArgumentError, Option } from 'commander'
import { openBackend } from '../backends/open.ts'
import { UserError } from '../config/errors.ts'
import { toBf16 } from '../formats/bf16.ts'
import { type FormatName, formats } from '../formats/formats.ts'
import { rotate } from '../formats/hadamard.ts'
import { layoutOf, type Preparation, prepare } from '../formats/prepare.ts'
import { checkOptions, type QuantizedMatrix } from '../formats/quantize.ts'
import { type QuantizationReport, reportOn } from '../formats/report.ts'
import { kernels } from '../kernels/index.ts'
import { rowImage, scalesOfLines } from '../ops/image.ts'
import { inTurns, type Pausable, wantWritable } from '../run/files.ts'
import type { Backend, Memory } from '../tensor/backend.ts'
import { dtypes } from '../tensor/dtype.ts'
import {
  floatsOf,
  openSafetensors,
  type SafetensorsDtype,
  type SafetensorsFile,
  type StoredTensor,
  type TensorToWrite,
} from '../tensor/safetensors.ts'
import { sizeOf, Tensor } from '../tensor/tensor.ts'
import { showWork, type WorkDisplay } from './progress.ts'
import { renderReports } from './quantize_report.ts'
import {
  type FileDescription,
  type FileOptions,
  metadataKey,
  tensorOptions,
  tensorsOf,
  writingTensors,
} from './quantized_file.ts'
import { stoppable } from './signals.ts'

/** Options of the command line. */
interface Flags {
  readonly format: FormatName
  readonly tile?: string
  readonly scaleOrder: 'q6' | 'm6'
  readonly fourOverSix?: 'mae' | 'mse'
  readonly outer: 'tensor' | 'row'
  readonly headroom?: number
  readonly mxScale: 'up' | 'floor'
  readonly pow2Scales?: true
  readonly transpose?: true
  readonly rotate?: number
  readonly signs: 'fixed' | 'fresh' | 'none'
  readonly round: 'nearest' | 'stochastic' | 'eden'
  readonly seed: number
  readonly stream: number
  readonly step: number
  readonly backend: string
  readonly strict?: true
  readonly report?: true
  readonly json?: true
}

/** Tiles that a format has: blocks along a row, and squares. */
function tilesOf(name: FormatName): string[] {
  const { block } = formats[name]
  return Number.isFinite(block) ? [`1x${block}`, `${block}x${block}`] : []
}

function fileOptions(flags: Flags): FileOptions {
  const { format, tile, rotate: size, seed } = flags
  const tiles = tilesOf(format)
  if (tile !== undefined && !tiles.includes(tile))
    throw new UserError(
      `--tile ${tile}: ${format} has ${tiles.length ? `tiles of ${tiles.join(' and ')}` : 'one scale for the tensor'}`,
      2,
    )
  const options: FileOptions = {
    format,
    square: tile !== undefined && tile === tiles[1],
    round: flags.round,
    scaleOrder: flags.scaleOrder,
    fourOverSix: flags.fourOverSix,
    outer: flags.outer,
    headroom: flags.headroom,
    pow2Scales: flags.pow2Scales ?? false,
    mxScale: flags.mxScale,
    transpose: flags.transpose ?? false,
    rotate: size === undefined ? undefined : { size, signs: flags.signs },
    random: [seed % 2 ** 32, Math.floor(seed / 2 ** 32), flags.step],
    stream: flags.stream,
  }
  try {
    checkOptions(options)
    layoutOf([1, 1], options)
  } catch (error) {
    throw new UserError((error as Error).message, 2)
  }
  return options
}

/** Why a tensor is passed over, if it is. */
function unfit(
  { dtype, shape }: { dtype: SafetensorsDtype; shape: readonly number[] },
  floats: boolean,
): string | undefined {
  if (!floats) return `${dtype} is no floating-point dtype`
  if (shape.length !== 2) return `its shape [${shape.join(', ')}] is not that of a matrix`
  return shape.includes(0) ? `its shape [${shape.join(', ')}] is empty` : undefined
}

/** Runs a matrix, already transposed and padded, through a backend's amax and quantising kernels. */
function quantizeOn(
  backend: Backend,
  straight: Float32Array,
  { rows, cols, rotation }: Preparation,
  options: FileOptions,
  bf16: boolean,
): { matrix: QuantizedMatrix; finite: boolean } {
  const held: Memory[] = []
  const allocate = (dtype: keyof typeof dtypes, shape: readonly number[]): Tensor => {
    const memory = backend.alloc(Math.max(64, sizeOf(shape) * dtypes[dtype].bytes))
    held.push(memory)
    return new Tensor(backend, memory, 0, dtype, shape)
  }
  try {
    const x = bf16
      ? allocate('bf16', [rows, cols]).write(toBf16(straight))
      : allocate('f32', [rows, cols]).write(straight)
    const { transpose, rotate: _, square, pow2Scales, random, stream, ...spec } = options
    const found = allocate('f32', [2])
    const image = rowImage(backend, allocate, x, {
      spec: { ...spec, ...(square ? { square } : {}), ...(pow2Scales ? { pow2Scales } : {}) } as never,
      hadamard: rotation && { size: rotation.size, signs: allocate('u32', [4]).write(rotation.signs) },
      amax: found,
      random: allocate('u32', [3]).write(Uint32Array.from(random)),
      stream,
    })
    const matrix: QuantizedMatrix = {
      format: options.format,
      rows,
      cols,
      codes: image.codes.read() as Uint8Array,
      scales: scalesOfLines(image),
      amax: image.amax.floats(),
      outer: image.outer,
      bound: image.bound,
    }
    return { matrix, finite: found.floats()[1] === 0 }
  } finally {
    for (const memory of held) backend.free(memory)
  }
}

export interface NamedReport extends QuantizationReport {
  readonly name: string
}

interface Outcome {
  readonly tensors: [string, TensorToWrite][]
  readonly report: NamedReport | undefined
  readonly finite: boolean
}

function quantizeTensor(
  backend: Backend,
  name: string,
  { dtype, shape }: StoredTensor,
  values: Float32Array,
  options: FileOptions,
  report: boolean,
): Outcome {
  const bf16 = dtype === 'BF16'
  const layout = layoutOf(shape as [number, number], tensorOptions(options, dtype))
  const straight = prepare(values, layout)
  const { matrix, finite } = quantizeOn(backend, straight, layout, options, bf16)
  const { rows, cols, rotation, transposed } = layout
  const turned = report && rotation ? rotate(straight, rows, cols, { ...rotation, bf16 }) : straight
  const [height, width] = transposed ? [shape[1]!, shape[0]!] : [shape[0]!, shape[1]!]
  return {
    tensors: tensorsOf(name, options, matrix, layout),
    report: report ? { name, ...reportOn(turned, matrix, height, rotation ? cols : width) } : undefined,
    finite,
  }
}

/** What becomes of the matrices of a file, one after the other; pauses after each. */
function* quantising(
  backend: Backend,
  input: string,
  file: SafetensorsFile,
  options: FileOptions,
  { strict, reporting, writing, work }: { strict: boolean; reporting: boolean; writing: boolean; work: WorkDisplay },
): Pausable<{ description: FileDescription; tensors: Map<string, TensorToWrite>; reports: NamedReport[] }> {
  const note = (name: string, what: string, consequence: string): void => {
    if (strict) throw new UserError(`${input}: tensor "${name}": ${what}`)
    work.note(`tensor "${name}": ${what}; ${consequence}`)
  }
  const description: FileDescription = { options, tensors: {} }
  const tensors = new Map<string, TensorToWrite>()
  const reports: NamedReport[] = []
  const total = Math.max(0, ...[...file.tensors.values()].map(({ end }) => end))
  for (const [name, entry] of file.tensors) {
    work(entry.start, total, `quantising ${input}`)
    const stored = file.read(name)
    const values = floatsOf(stored)
    const reason = unfit(entry, values !== undefined)
    if (reason !== undefined || !values) {
      note(name, reason!, 'passed over')
      continue
    }
    const outcome = quantizeTensor(backend, name, stored, values, options, reporting)
    if (!outcome.finite) note(name, 'holds values that are not finite', 'their codes are ordinary numbers')
    description.tensors[name] = { shape: stored.shape as [number, number], dtype: stored.dtype }
    if (writing) for (const [part, tensor] of outcome.tensors) tensors.set(part, tensor)
    if (outcome.report) reports.push(outcome.report)
    yield
  }
  work.done()
  if (reports.length + tensors.size === 0) throw new UserError(`${input}: has no matrix to quantise`)
  return { description, tensors, reports }
}

async function quantizeFile(input: string, output: string | undefined, flags: Flags): Promise<void> {
  const options = fileOptions(flags)
  const reporting = Boolean(flags.report || flags.json)
  if (output === undefined && !reporting)
    throw new UserError('quantize: name an output file, or ask for figures alone with --report', 2)
  if (output !== undefined) wantWritable(output)
  const file = openSafetensors(input)
  const work = showWork()
  let backend: Backend | undefined
  try {
    backend = await openBackend(flags.backend, kernels)
    const how = { strict: Boolean(flags.strict), reporting, writing: output !== undefined, work }
    const made = quantising(backend, input, file, options, how)
    const reports = await stoppable(async signal => {
      const { description, tensors, reports } = await inTurns(made, signal)
      if (output === undefined) return reports
      const metadata = { [metadataKey]: JSON.stringify(description) }
      await inTurns(writingTensors(output, tensors, metadata, work), signal)
      return reports
    }, work.done)
    if (reporting) process.stdout.write(renderReports(reports, Boolean(flags.json)))
  } catch (error) {
    if (error instanceof RangeError) throw new UserError(`${input}: ${error.message}`)
    throw error
  } finally {
    backend?.close()
    file.close()
  }
}

/** A whole number below `limit`, for commander. */
const wholeBelow = (limit: number) => (text: string) => {
  const value = Number(text)
  if (text.trim() === '' || !Number.isInteger(value) || value < 0 || value >= limit)
    throw new InvalidArgumentError(`found ${text}, wanted a whole number from 0, below ${limit}`)
  return value
}

function share(text: string): number {
  const value = Number(text)
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError(`found ${text}, wanted a number above 0 and at most 1`)
  return value
}

export function registerQuantize(program: Command): void {
  program
    .command('quantize')
    .description(
      'Quantise every matrix NAME of a safetensors file to NAME.codes, NAME.scales and NAME.amax, to the bit as training does.',
    )
    .argument('<input>', 'safetensors file')
    .argument('[output]', 'safetensors file to write; may be left out with --report')
    .addOption(new Option('--format <name>', 'number format').choices(Object.keys(formats)).default('nvfp4'))
    .option('--tile <tile>', 'what shares a scale: 1x16 or 16x16, 1x32 or 32x32, 1x128 or 128x128; default along a row')
    .addOption(
      new Option('--scale-order <order>', 'operations of NVFP4 block scales').choices(['q6', 'm6']).default('q6'),
    )
    .addOption(new Option('--four-over-six <error>', 'the better of two block scales').choices(['mae', 'mse']))
    .option('--transpose', 'quantise the transpose: blocks along the rows')
    .option('--rotate <size>', 'Hadamard rotation along the blocks: 4, 16, 32, 64 or 128', wholeBelow(2 ** 32))
    .addOption(
      new Option('--signs <signs>', 'signs of the rotation').choices(['fixed', 'fresh', 'none']).default('fixed'),
    )
    .addOption(
      new Option('--round <how>', 'rounding of the elements')
        .choices(['nearest', 'stochastic', 'eden'])
        .default('nearest'),
    )
    .option('--seed <n>', 'seed of stochastic rounding', wholeBelow(2 ** 53), 0)
    .option('--stream <n>', 'stream of stochastic rounding', wholeBelow(2 ** 32), 0)
    .option('--step <n>', 'step of stochastic rounding', wholeBelow(2 ** 32), 0)
    .option('--pow2-scales', 'FP8 scales rounded down to powers of two')
    .addOption(
      new Option('--mx-scale <how>', 'UE8M0 scales: rounded up, or OCP floor').choices(['up', 'floor']).default('up'),
    )
    .addOption(new Option('--outer <what>', 'what shares an outer scale').choices(['tensor', 'row']).default('tensor'))
    .option('--headroom <share>', 'largest quotient aimed at, such as 0.9412 (16/17)', share)
    .option('--backend <name>', 'reference, cpu or cuda', 'reference')
    .option('--strict', 'refuse tensors that are no matrices of floats, and values that are not finite')
    .option('--report', 'print what quantisation does to each tensor')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Tensors that are no matrices of floats are passed over with a note. Rows and columns that the blocks do not divide are padded with zeros;
"halfbyte dequantize" crops them.

Examples:
  halfbyte quantize model.safetensors model-nvfp4.safetensors --tile 16x16
  halfbyte quantize model.safetensors --report                  figures alone: SNR, flushed, saturated, codes
  halfbyte quantize grads.safetensors out.safetensors --transpose --rotate 16 --round stochastic --seed 1
  halfbyte quantize model.safetensors out.safetensors --format fp8 --tile 128x128 --backend cpu`,
    )
    .action(quantizeFile)
}
