import { wantArgument, wantChoices, wantFloats, wantFormat, wantObject } from './arguments.ts'
import { dequantizeMatrix } from './dequantize.ts'
import { type FormatName, formats } from './formats.ts'
import { hadamardSizes, rotate, type Signs, signWords, transpose, unrotate } from './hadamard.ts'
import { checkOptions, type QuantizedMatrix, type QuantizeOptions, quantizeMatrix } from './quantize.ts'

/**
 * From a matrix as it stands to one whose rows are whole blocks, and back:
 *
 *   transpose (if asked), pad with zeros at the right and below to whole blocks or tiles and rotations, rotate (if asked)
 *
 * The way back undoes the rotation, crops and transposes.
 */
export interface PrepareOptions {
  readonly format: FormatName
  /** Square tiles instead of 1 x block. */
  readonly square?: boolean | undefined
  /** Quantise the transpose: blocks along the rows. */
  readonly transpose?: boolean | undefined
  /** Rotate along the blocks. `random` and `stream` of the quantisation address `fresh` signs. */
  readonly rotate?: { readonly size: number; readonly signs: Signs } | undefined
}

/** How a matrix was laid out for quantisation. */
export interface Preparation {
  /** Rows and columns of the matrix itself. */
  readonly shape: readonly [number, number]
  readonly transposed: boolean
  /** Rows and columns of what is quantised. */
  readonly rows: number
  readonly cols: number
  readonly rotation?: { readonly size: number; readonly signs: Uint32Array } | undefined
}

const upTo = (n: number, unit: number): number => Math.ceil(n / unit) * unit

/**
 * The layout of a matrix [rows, cols] under these options.
 * @throws RangeError on sizes that are not whole positive numbers or a rotation that there is not
 */
export function layoutOf(
  shape: readonly [number, number],
  options: PrepareOptions & Pick<QuantizeOptions, 'random' | 'stream'>,
): Preparation {
  wantArgument(Array.isArray(shape) && shape.length === 2, 'shape', shape, 'rows and columns, [rows, cols]')
  wantObject('options', options)
  wantFormat('options.format', options.format)
  if (options.rotate !== undefined) {
    wantObject('options.rotate', options.rotate)
    wantChoices({ 'rotate.signs': options.rotate.signs }, { 'rotate.signs': ['fixed', 'fresh', 'none'] })
  }
  for (const size of shape)
    if (!Number.isSafeInteger(size) || size < 1)
      throw new RangeError(`a matrix of ${shape.join(' x ')} has nothing to quantise`)
  const { block } = formats[options.format]
  const unit = Number.isFinite(block) ? block : 16
  const transposed = options.transpose ?? false
  const [rows, cols] = transposed ? [shape[1], shape[0]] : shape
  const size = options.rotate?.size ?? 1
  if (options.rotate && !hadamardSizes.includes(size))
    throw new RangeError(`Hadamard size ${size} is not one of ${hadamardSizes.join(', ')}`)
  return {
    shape,
    transposed,
    rows: options.square ? upTo(rows, unit) : rows,
    cols: upTo(cols, Math.max(unit, size)),
    rotation: options.rotate && { size, signs: signWords(options.rotate.signs, options.random, options.stream) },
  }
}

/** Transposed and padded, not rotated: [layout.rows, layout.cols]. */
export function prepare(values: Float32Array, { shape, transposed, rows, cols }: Preparation): Float32Array {
  const turned = transposed ? transpose(values, ...shape) : values
  const [height, width] = transposed ? [shape[1], shape[0]] : shape
  if (width === cols && height === rows) return turned
  const padded = new Float32Array(rows * cols)
  for (let r = 0; r < height; r++) padded.set(turned.subarray(r * width, (r + 1) * width), r * cols)
  return padded
}

/** The inverse of `prepare` and of the rotation after it. */
export function restore(values: Float32Array, { shape, transposed, rows, cols, rotation }: Preparation): Float32Array {
  const straight = rotation ? unrotate(values, rows, cols, rotation) : values
  const [height, width] = transposed ? [shape[1], shape[0]] : shape
  const cropped = new Float32Array(height * width)
  for (let r = 0; r < height; r++) cropped.set(straight.subarray(r * cols, r * cols + width), r * width)
  return transposed ? transpose(cropped, height, width) : cropped
}

export type QuantizeTensorOptions = Omit<QuantizeOptions, 'amax'> & PrepareOptions

/** A quantised matrix of any shape, and how it was laid out. */
export interface QuantizedTensor extends QuantizedMatrix {
  readonly layout: Preparation
}

/**
 * Quantises a matrix.
 *
 * @param values the matrix in row-major order; BF16 values widened, with `source: 'bf16'`, so that a rotation is rounded to it
 * @param shape rows and columns; those that the blocks do not divide are padded with zeros
 * @returns codes [rows, cols], packed two to a byte if they have 4 bits, and decode scales, of the padded matrix; amax[1] is 1 if a value was
 *   not finite
 * @throws RangeError naming what does not fit: sizes, or options that exclude each other
 */
export function quantize(
  values: Float32Array,
  shape: readonly [number, number],
  options: QuantizeTensorOptions,
): QuantizedTensor {
  wantFloats('values', values)
  const layout = layoutOf(shape, options)
  checkOptions(options)
  if (values.length !== shape[0] * shape[1])
    throw new RangeError(`${values.length} values are not a matrix of ${shape.join(' x ')}`)
  const { rows, cols, rotation } = layout
  const straight = prepare(values, layout)
  const bf16 = options.source === 'bf16'
  const turned = rotation ? rotate(straight, rows, cols, { ...rotation, bf16 }) : straight
  return { ...quantizeMatrix(turned, rows, cols, options), layout }
}

/** The values of a quantised matrix in its own shape: rotation undone, padding cropped, transposed back. */
export function dequantize(tensor: QuantizedTensor): Float32Array {
  const values = dequantizeMatrix(tensor)
  wantObject('tensor.layout', tensor.layout)
  return restore(values, tensor.layout)
}
