import { dirname } from 'node:path'
import { z } from 'zod'
import { UserError } from '../config/errors.ts'
import { type FormatName, formats } from '../formats/formats.ts'
import { layoutOf, type Preparation, type QuantizedTensor, type QuantizeTensorOptions } from '../formats/prepare.ts'
import { limitsOf, type QuantizedMatrix } from '../formats/quantize.ts'
import { counted, makeDirectory, type Pausable, type Progress, replacingFile } from '../run/files.ts'
import {
  floatsOf,
  type SafetensorsDtype,
  type SafetensorsFile,
  safetensorsChunks,
  safetensorsDtypes,
  type TensorToWrite,
} from '../tensor/safetensors.ts'
import { sizeOf } from '../tensor/tensor.ts'

/**
 * A safetensors file of quantised matrices. Matrix NAME is three tensors:
 *
 *   NAME.codes    U8, two codes to a byte, low nibble first; F8_E4M3 where elements have 8 bits
 *   NAME.scales   the decode scales: F8_E4M3, U8 for UE8M0, or F32
 *   NAME.amax     F32, the largest magnitude of the tensor, or of each row where there is an outer scale for each
 *
 * The metadata entry `halfbyte.quantized` is JSON with the options and with each matrix's own shape and dtype, which is what the way back needs
 * beyond the tensors.
 */
export const metadataKey = 'halfbyte.quantized'

const names = Object.keys(formats) as [FormatName, ...FormatName[]]
const word = z.int().min(0).max(0xffffffff)

const description = z.object({
  options: z.object({
    format: z.enum(names),
    square: z.boolean(),
    round: z.enum(['nearest', 'stochastic', 'eden']),
    scaleOrder: z.enum(['q6', 'm6']),
    fourOverSix: z.enum(['mae', 'mse']).optional(),
    outer: z.enum(['tensor', 'row']),
    headroom: z.number().optional(),
    pow2Scales: z.boolean(),
    mxScale: z.enum(['up', 'floor']),
    transpose: z.boolean(),
    rotate: z.object({ size: z.int().positive(), signs: z.enum(['fixed', 'fresh', 'none']) }).optional(),
    random: z.tuple([word, word, word]),
    stream: word,
  }),
  tensors: z.record(
    z.string(),
    z.object({ shape: z.tuple([z.int().positive(), z.int().positive()]), dtype: z.string() }),
  ),
})
export type FileOptions = z.infer<typeof description>['options']
export type FileDescription = z.infer<typeof description>

/** The options as src/formats takes them, for values of one dtype. */
export const tensorOptions = (options: FileOptions, dtype: SafetensorsDtype): QuantizeTensorOptions => ({
  ...options,
  source: dtype === 'BF16' ? 'bf16' : 'f32',
})

interface Part {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
}

/** Dtypes and shapes of the three tensors of a matrix. */
function partsOf(options: FileOptions, { rows, cols }: Preparation): { codes: Part; scales: Part; amax: Part } {
  const { element, block, scale, squareScalePerRow } = formats[options.format]
  const scaleRows = options.square && !squareScalePerRow ? Math.ceil(rows / block) : rows
  const dtypes = { e4m3: 'F8_E4M3', ue8m0: 'U8', f32: 'F32' } as const
  return {
    codes: { dtype: element.bits === 4 ? 'U8' : 'F8_E4M3', shape: [rows, (cols * element.bits) / 8] },
    scales: { dtype: dtypes[scale], shape: Number.isFinite(block) ? [scaleRows, cols / block] : [1] },
    amax: { dtype: 'F32', shape: [options.outer === 'row' ? rows : 1] },
  }
}

/** The three tensors of a quantised matrix, by name. */
export function tensorsOf(
  name: string,
  options: FileOptions,
  matrix: QuantizedMatrix,
  layout: Preparation,
): [string, TensorToWrite][] {
  const parts = partsOf(options, layout)
  const amax = matrix.amax.subarray(0, parts.amax.shape[0])
  return [
    [`${name}.codes`, { ...parts.codes, data: matrix.codes }],
    [`${name}.scales`, { ...parts.scales, data: matrix.scales }],
    [`${name}.amax`, { ...parts.amax, data: amax }],
  ]
}

/** Replaces a safetensors file, in a folder that is made if it is not there, showing how far it is; pauses after each tensor. */
export function* writingTensors(
  path: string,
  tensors: ReadonlyMap<string, TensorToWrite>,
  metadata: Readonly<Record<string, string>>,
  progress: Progress,
): Pausable<void> {
  const sizes = [...tensors.values()].map(({ dtype, shape }) => sizeOf(shape) * safetensorsDtypes[dtype])
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0)
  let done = 0
  const count = (bytes: number) => progress((done = Math.min(total, done + bytes)), total, `writing ${path}`)
  makeDirectory(dirname(path))
  yield* replacingFile(path, counted(safetensorsChunks(tensors, metadata), count))
}

/** @throws UserError if the file does not describe quantised matrices */
export function describeFile(path: string, file: SafetensorsFile): FileDescription {
  const text = file.metadata[metadataKey]
  if (text === undefined)
    throw new UserError(`${path}: has no metadata "${metadataKey}", so "halfbyte quantize" did not write it`)
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    throw new UserError(`${path}: the metadata "${metadataKey}" is not JSON`)
  }
  const { success, data, error } = description.safeParse(json)
  if (success) return data
  const { path: at, message } = error.issues[0]!
  throw new UserError(`${path}: the metadata "${metadataKey}" has a wrong ${at.join('.') || 'form'}: ${message}`)
}

/** @throws UserError if the three tensors are not what the description says */
export function readQuantized(
  path: string,
  file: SafetensorsFile,
  { options, tensors }: FileDescription,
  name: string,
): QuantizedTensor {
  const { shape, dtype } = tensors[name]!
  const all = tensorOptions(options, dtype as SafetensorsDtype)
  const layout = layoutOf(shape, all)
  const parts = partsOf(options, layout)
  const read = (part: keyof typeof parts): Uint8Array => {
    const wanted = parts[part]
    const found = file.tensors.get(`${name}.${part}`)
    const say = (tensor: Part) => `${tensor.dtype}[${tensor.shape.join(', ')}]`
    if (!found) throw new UserError(`${path}: has no tensor "${name}.${part}"`)
    if (say(found) !== say(wanted))
      throw new UserError(`${path}: "${name}.${part}" is ${say(found)}, ${say(wanted)} wanted`)
    return file.read(`${name}.${part}`).data
  }
  const floats = (part: 'scales' | 'amax') => floatsOf({ ...parts[part], data: read(part) })!
  return {
    format: options.format,
    rows: layout.rows,
    cols: layout.cols,
    codes: read('codes'),
    scales: parts.scales.dtype === 'F32' ? floats('scales') : read('scales'),
    amax: floats('amax'),
    outer: options.outer,
    bound: limitsOf(all).bound,
    layout,
  }
}
