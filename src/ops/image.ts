import { formats } from '../formats/formats.ts'
import { transpose } from '../formats/hadamard.ts'
import { limitsOf } from '../formats/quantize.ts'
import { amax, amaxBoth, amaxLines, amaxRotated } from '../kernels/amax/amax.ts'
import { cast } from '../kernels/cast/cast.ts'
import { dequantize } from '../kernels/dequantize/dequantize.ts'
import { quantize } from '../kernels/quantize/quantize.ts'
import { rotate } from '../kernels/rotate/rotate.ts'
import type { FormatName, Quantized } from '../recipes/recipe.ts'
import type { Backend } from '../tensor/backend.ts'
import type { DType } from '../tensor/dtype.ts'
import type { Kernel } from '../tensor/kernel.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Mapped } from './tape.ts'

/**
 * A quantised operand as a GEMM reads it: [rows, cols] with blocks along cols, the contraction.
 *
 *   value[r, c] = code[r, c] * scale[r, c / block] * amax / bound        (formats without a tensor scale: code * scale)
 */
export interface Image {
  readonly format: FormatName
  readonly rows: number
  readonly cols: number
  /** u8, packed two to a byte (low nibble first) for 4-bit elements: [rows, cols/2] or [rows, cols]. */
  readonly codes: Tensor
  /**
   * Decode scales: u8 [rows, cols/16] E4M3; u8 [rows, cols/32] UE8M0; for FP8 f32 [ceil(cols/128), rows], of square tiles
   * [ceil(rows/128), ceil(cols/128)], or [1] with one scale for the tensor.
   */
  readonly scales: Tensor
  /** f32[2]: largest magnitude, and 1 if a value was not finite; or f32[rows] with one outer scale per row. */
  readonly amax: Tensor
  /** Whether `amax` is one for the tensor or one for each row. */
  readonly outer: 'tensor' | 'row'
  /** Largest element times largest block scale: 2688, or 1536 under four-over-six; 1 in formats without a tensor scale. */
  readonly bound: number
}

/** Memory for an image; it must live as long as the image. */
export type Allocate = (dtype: DType, shape: readonly number[]) => Tensor

export interface ImageRequest {
  readonly spec: Quantized
  /** Rotation along the blocks; `signs` is u32[4], bit i set for a minus. */
  readonly hadamard?: { readonly size: number; readonly signs: Tensor } | undefined
  /** f32[2], written here: the largest magnitude of what is quantised, and 1 if any of it is not finite. */
  readonly amax: Tensor
  /** u32[3]: seed low, seed high, step. */
  readonly random: Tensor
  /** Which random decisions to draw; no two images of a step may share it. */
  readonly stream: number
}

const run = (backend: Backend, kernel: Kernel, bindings: Record<string, Tensor | number | undefined>): void =>
  backend.run(kernel, bindings as never)

const scaleOrders = { q6: 0, m6: 1 }
const errors = { mae: 1, mse: 2 }
const mxScales = { up: 0, floor: 1 }

type Scalars = Readonly<Record<string, number>>

const knownScalars = new WeakMap<Quantized, Scalars>()

/** Every scalar of a quantising kernel that follows from how to quantise alone. */
function scalarsOf(spec: Quantized): Scalars {
  const known = knownScalars.get(spec)
  if (known) return known
  const { limit, bound } = limitsOf(spec)
  const scalars = {
    rounding: spec.round === 'stochastic' ? 1 : 0,
    limit,
    bound,
    scale_order: scaleOrders[spec.scaleOrder ?? 'q6'],
    four_over_six: spec.fourOverSix ? errors[spec.fourOverSix] : 0,
    per_row: spec.outer === 'row' ? 1 : 0,
    floor: mxScales[spec.mxScale ?? 'up'],
    pow2: spec.pow2Scales ? 1 : 0,
  }
  knownScalars.set(spec, scalars)
  return scalars
}

function matrixShape(x: Tensor): [number, number] {
  if (x.shape.length !== 2) throw new RangeError(`an image is of a matrix, got ${x.toString()}`)
  return x.shape as [number, number]
}

/** Shape and dtype of the scales of an image [rows, cols]. */
function scalesOf(format: FormatName, rows: number, cols: number, square: boolean): { dtype: DType; shape: number[] } {
  const { block, scale, squareScalePerRow } = formats[format]
  const dtype = scale === 'f32' ? 'f32' : 'u8'
  if (!Number.isFinite(block)) return { dtype, shape: [1] }
  if (scale === 'f32' && !square) return { dtype, shape: [Math.ceil(cols / block), rows] }
  return { dtype, shape: [square && !squareScalePerRow ? Math.ceil(rows / block) : rows, Math.ceil(cols / block)] }
}

const codesShape = (format: FormatName, rows: number, cols: number): number[] => [
  rows,
  (cols * formats[format].element.bits) / 8,
]

/** @throws RangeError naming the dimension that the format's blocks or the rotation do not divide. */
function checkShape({ spec, hadamard }: ImageRequest, rows: number, cols: number): void {
  const { block, scale } = formats[spec.format]
  const unit = scale === 'f32' ? 16 : block
  const need = (n: number, divisor: number, what: string) => {
    if (n % divisor !== 0)
      throw new RangeError(`${spec.format} image of [${rows}, ${cols}]: ${n} is not a multiple of ${what} ${divisor}`)
  }
  need(cols, unit, 'the block of')
  if (spec.square) need(rows, unit, 'the tile of')
  if (hadamard) need(cols, hadamard.size, 'the rotation of')
}

/** Allocates an image of `rows` lines along `cols`. */
function emptyImage(allocate: Allocate, rows: number, cols: number, request: ImageRequest, amax: Tensor): Image {
  const { format, square, outer } = request.spec
  const scales = scalesOf(format, rows, cols, square === true)
  return {
    format,
    rows,
    cols,
    codes: allocate('u8', codesShape(format, rows, cols)),
    scales: allocate(scales.dtype, scales.shape),
    amax,
    outer: outer ?? 'tensor',
    bound: scalarsOf(request.spec).bound!,
  }
}

/** Writes `request.amax`, if the format's kernels do not; returns it, or the amax of each line where the outer scales are those. */
function findAmax(backend: Backend, allocate: Allocate, x: Tensor, request: ImageRequest, columns: 0 | 1): Tensor {
  const { hadamard, spec } = request
  const rotation = { hadamard: hadamard?.size ?? 0, signs: hadamard?.signs, columns }
  if (spec.outer === 'row') {
    const largest = allocate('f32', [x.shape[columns]!])
    backend.run(amaxLines, { largest, amax: request.amax, x, ...rotation })
    return largest
  }
  if (quantize[spec.format].findsAmax) return request.amax
  if (hadamard) run(backend, amaxRotated as unknown as Kernel, { amax: request.amax, x, ...rotation })
  else backend.run(amax, { amax: request.amax, x })
  return request.amax
}

/** Runs a kernel with those of `values`, and of the scalars that follow from `spec`, that its contract has. */
function runWith(
  backend: Backend,
  kernel: Kernel,
  values: Record<string, Tensor | number | undefined>,
  spec?: Quantized,
): void {
  const scalars = spec && scalarsOf(spec)
  const bindings: Record<string, Tensor | number | undefined> = {}
  for (const name in kernel.args) bindings[name] = name in values ? values[name] : scalars?.[name]
  run(backend, kernel, bindings)
}

function linesImage(
  backend: Backend,
  allocate: Allocate,
  x: Tensor,
  request: ImageRequest,
  layout: 'rows' | 'columns',
): Image {
  const { spec, hadamard, random } = request
  const [rows, cols] = matrixShape(x)
  const columns = layout === 'columns' ? 1 : 0
  const [lines, length] = columns ? [cols, rows] : [rows, cols]
  checkShape(request, lines, length)
  if (spec.square) return squareImage(backend, allocate, x, request, columns)
  const image = emptyImage(allocate, lines, length, request, findAmax(backend, allocate, x, request, columns))
  const kernels = spec.round === 'eden' ? quantize[spec.format].eden : quantize[spec.format]
  if (!kernels) throw new RangeError(`${spec.format} has no MS-EDEN rounding`)
  const kernel = kernels[layout]
  const { codes, scales } = image
  const rotation = { signs: hadamard?.signs, hadamard: hadamard?.size ?? 0 }
  const values = { codes, scales, x, amax: image.amax, ...rotation, random, stream: request.stream }
  runWith(backend, kernel, values, spec)
  return image
}

/** One orientation of a square-tiled image, rotated first if asked. */
function squareImage(backend: Backend, allocate: Allocate, x: Tensor, request: ImageRequest, columns: 0 | 1): Image {
  let source = x
  if (request.hadamard) {
    source = allocate(x.dtype, x.shape)
    backend.run(rotate, { y: source, x, signs: request.hadamard.signs, hadamard: request.hadamard.size, columns })
  }
  const { row, column } = squareImages(backend, allocate, source, { ...request, hadamard: undefined })
  return columns ? column : row
}

/** The image of x [rows, cols]: blocks along cols. */
export const rowImage = (backend: Backend, allocate: Allocate, x: Tensor, request: ImageRequest): Image =>
  linesImage(backend, allocate, x, request, 'rows')

/** The image of xᵀ, [cols, rows]: blocks along the rows of x. */
export const columnImage = (backend: Backend, allocate: Allocate, x: Tensor, request: ImageRequest): Image =>
  linesImage(backend, allocate, x, request, 'columns')

const sameSpec = (a: Quantized, b: Quantized): boolean => {
  if (a === b) return true
  const names = new Set([...Object.keys(a), ...Object.keys(b)]) as Set<keyof Quantized>
  return [...names].every(name => a[name] === b[name])
}

/** Whether `bothImages` can make the image of x that `row` asks for and the image of xᵀ that `column` asks for. */
export const areMadeTogether = (row: ImageRequest, column: ImageRequest): boolean =>
  !row.hadamard &&
  !row.spec.square &&
  !row.spec.of &&
  row.spec.round !== 'eden' &&
  row.spec.outer !== 'row' &&
  row.random === column.random &&
  sameSpec(row.spec, column.spec)

/**
 * The images of x and of xᵀ, read once for both amaxes and, where the format has blocks, at once for the codes; for requests of which
 * `areMadeTogether` is true. A format whose kernel maps what it reads leaves a deferred x unmade.
 */
export function bothImages(
  backend: Backend,
  allocate: Allocate,
  source: { readonly value: Tensor; readonly mapped: Mapped },
  row: ImageRequest,
  column: ImageRequest,
): { row: Image; column: Image } {
  const { spec, random } = row
  const { both, maps, findsAmax, rows: ofRows, columns: ofColumns } = quantize[spec.format]
  const mapped: Mapped = maps ? source.mapped : { x: source.value, squared: 0 }
  const { x } = mapped
  const [rows, cols] = matrixShape(x)
  checkShape(row, rows, cols)
  checkShape(column, cols, rows)
  const rotation = { signs: column.hadamard?.signs, hadamard: column.hadamard?.size ?? 0 }
  if (!findsAmax) backend.run(amaxBoth, { amax: row.amax, amax_t: column.amax, ...mapped, ...rotation })
  const made = emptyImage(allocate, rows, cols, row, row.amax)
  const made_t = emptyImage(allocate, cols, rows, column, column.amax)
  const first = { codes: made.codes, scales: made.scales, x, amax: row.amax, random, stream: row.stream }
  if (both) {
    const second = { codes_t: made_t.codes, scales_t: made_t.scales, amax_t: column.amax, stream_t: column.stream }
    runWith(backend, both, { ...first, ...mapped, ...second, ...rotation }, spec)
  } else {
    const { codes, scales, amax } = made_t
    runWith(backend, ofRows, { ...first, signs: undefined, hadamard: 0 }, spec)
    runWith(backend, ofColumns, { ...first, codes, scales, amax, stream: column.stream, ...rotation }, spec)
  }
  return { row: made, column: made_t }
}

/**
 * Both images of w, or where `rounded` of its BF16 rounding, from square tiles; `column` is the exact transpose of `row`.
 * @throws RangeError if a rotation is asked for, because it would differ between the two.
 */
export function squareImages(
  backend: Backend,
  allocate: Allocate,
  w: Tensor,
  request: ImageRequest,
  rounded = false,
): { row: Image; column: Image } {
  const [rows, cols] = matrixShape(w)
  const { format } = request.spec
  const { square: kernel, rounds } = quantize[format]
  if (rounded && !rounds) throw new RangeError(`${format} quantises square tiles of values as they are, not rounded`)
  if (request.hadamard) throw new RangeError('both orientations of one square-tiled image cannot be rotated')
  if (request.spec.round === 'eden') throw new RangeError('MS-EDEN has blocks along a row, not square tiles')
  if (request.spec.outer === 'row') throw new RangeError('square tiles span rows, so an outer scale cannot be per row')
  const square = request.spec.square ? request : { ...request, spec: { ...request.spec, square: true as const } }
  checkShape(square, rows, cols)
  const found = findAmax(backend, allocate, w, square, 0)
  const row = emptyImage(allocate, rows, cols, square, found)
  const column = emptyImage(allocate, cols, rows, square, found)
  const images = { codes: row.codes, scales: row.scales, codes_t: column.codes, scales_t: column.scales }
  const { random, stream, spec } = square
  runWith(backend, kernel, { ...images, x: w, amax: found, random, stream, rounded: rounded ? 1 : 0 }, spec)
  return { row, column }
}

/** An image of x and, where its tiles are square, that of its transpose, with the same codes. */
export interface Pair {
  readonly row: Image
  readonly column?: Image
}

/** @param unrounded What x is the BF16 rounding of: read in its place where the kernel rounds. */
export function forwardPair(
  backend: Backend,
  allocate: Allocate,
  x: { readonly value: Tensor },
  request: ImageRequest,
  unrounded?: Tensor,
): Pair {
  const { square, format } = request.spec
  if (!square || request.hadamard) return { row: rowImage(backend, allocate, x.value, request) }
  if (unrounded && quantize[format].rounds) return squareImages(backend, allocate, unrounded, request, true)
  return squareImages(backend, allocate, x.value, request)
}

/** The values of an image, [rows, cols], rounded to `dtype`. */
export function dequantizeImage(backend: Backend, allocate: Allocate, image: Image, dtype: DType): Tensor {
  const y = allocate(dtype, [image.rows, image.cols])
  const kernel = dequantize[image.format]
  const outer = image.outer === 'row' ? 2 : 1
  const { codes, scales, amax, bound } = image
  runWith(backend, kernel, { y, codes, scales, amax, bound, outer })
  return y
}

/** Whether the scales of an image lie block by block, and line by line within a block. */
export const liesByBlocks = ({ format, rows, cols, scales }: Image): boolean =>
  formats[format].scale === 'f32' &&
  scales.shape[0] === Math.ceil(cols / formats[format].block) &&
  scales.shape[1] === rows

/** The scales of an image as src/formats has them: line by line. */
export function scalesOfLines(image: Image): Uint8Array | Float32Array {
  const [blocks, rows] = image.scales.shape
  const read = image.scales.read() as Uint8Array | Float32Array
  return liesByBlocks(image) ? transpose(read as Float32Array, blocks!, rows!) : read
}

/** `x` itself if it has that dtype, else a copy rounded to it. */
export function castTo(backend: Backend, allocate: Allocate, x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x
  const y = allocate(dtype, x.shape)
  backend.run(cast, { y: y.view([y.size]), x: x.view([x.size]) })
  return y
}
