import { roundBf16 } from '../../formats/bf16.ts'
import { type FormatName, formats, type NumberFormat } from '../../formats/formats.ts'
import { rotate, transpose } from '../../formats/hadamard.ts'
import { codeAt, type QuantizedMatrix, type QuantizeOptions, quantizeMatrix } from '../../formats/quantize.ts'
import type { CudaKernel } from '../../tensor/cuda.ts'
import type { Activation } from '../../tensor/dtype.ts'
import {
  type Args,
  type Dims,
  defineKernel,
  f32,
  i32,
  input,
  type Kernel,
  optional,
  output,
  type TensorArg,
  u32,
} from '../../tensor/kernel.ts'
import { fewBlocks } from '../shared/blocks.ts'
import { mapped, mappingArgs } from '../shared/mapping.ts'
import { type Layout, maps, quantizeCases, rounds } from './cases.ts'
import { fp8Launches } from './quantize_fp8.cuda.ts'

/**
 * Quantisation of a matrix x [rows, cols] into images, byte-equal to src/formats/quantize.ts (docs/numerics.md, "NVFP4 quantisation" and after).
 *
 *   rows      the image of x:  blocks along cols           columns   the image of xᵀ, [cols, rows]: blocks along rows
 *   square    both at once from square tiles, as exact transposes of one another; codes_t and scales_t may be left out
 *   both      `rows` without rotation and, as codes_t and scales_t, `columns` with amax_t and stream_t, of x as mapped, in one pass over x
 *
 * rows and columns may first rotate along their blocks, both rotates the columns: `hadamard` is the size or 0, `signs` its bit masks (bit i set: minus). `rounding` is 0
 * nearest, 1 stochastic; `random` is [seed low, seed high, step] and `stream` says which decisions to draw. A block at the end of a row may be
 * short in FP8, whose blocks are 128 long; it is as if the row went on with zeros. Its scales of lines lie block by block, [blocks, lines], as
 * tensor cores read them; those of all other images line by line. `limit` and `bound` are src/formats/quantize.ts's `limitsOf`.
 *
 * Where no scale spans the tensor, a format's kernels may find `amax` instead of reading it: [largest magnitude, 1 if not finite] of what is quantised,
 * rotated if that is, as the kernels of amax.ts do. With `rounded` 1, x is rounded to BF16 as it is read and counts as BF16.
 */

/** Properties of a format that its kernels' arguments follow from. */
interface Row {
  readonly format: FormatName
  readonly scalars: Args
  /** Whether the kernels write amax. */
  readonly findsAmax?: true
  readonly cuda?: (layout: Layout) => CudaKernel
}

const rows: readonly Row[] = [
  {
    format: 'nvfp4',
    // scale_order 0 q6, 1 m6; four_over_six 0 off, 1 mae, 2 mse; per_row 1: amax is one for each row of the image.
    scalars: { limit: f32, bound: f32, scale_order: i32, four_over_six: i32, per_row: i32 },
    cuda: layout => fewBlocks(layout === 'both' ? 660 : 528),
  },
  { format: 'mxfp4', scalars: { limit: f32, floor: i32 } },
  { format: 'mxfp8', scalars: { limit: f32, floor: i32 } },
  { format: 'fp8', scalars: { limit: f32, pow2: i32 }, findsAmax: true, cuda: fp8Launches },
  { format: 'fp8-tensor', scalars: { limit: f32, pow2: i32 } },
]

const snakeCase = (name: string): string => name.replace('-', '_')

interface QuantizeValues {
  readonly codes: Uint8Array
  readonly scales: Uint8Array | Float32Array
  readonly codes_t?: Uint8Array | undefined
  readonly scales_t?: Uint8Array | Float32Array | undefined
  readonly x: Float32Array
  readonly inverse?: Float32Array | undefined
  readonly w?: Float32Array | undefined
  readonly squared?: number
  readonly amax?: Float32Array | undefined
  readonly amax_t?: Float32Array | undefined
  readonly signs?: Uint32Array | undefined
  readonly random?: Uint32Array | undefined
  readonly hadamard?: number
  readonly rounding?: number
  readonly stream: number
  readonly stream_t?: number
  readonly limit: number
  readonly scale_order?: number
  readonly four_over_six?: number
  readonly per_row?: number
  readonly floor?: number
  readonly pow2?: number
  readonly rounded?: number
}

const roundings = ['nearest', 'stochastic'] as const
const errors = [undefined, 'mae', 'mse'] as const

/** The options of src/formats that a call's scalars stand for. */
const optionsOf = ({ format, findsAmax }: Row, values: QuantizeValues, act: Activation): QuantizeOptions => ({
  format,
  round: values.rounding === undefined ? 'eden' : roundings[values.rounding],
  headroom: values.rounding === undefined ? undefined : values.limit / formats[format].element.max,
  scaleOrder: values.scale_order ? 'm6' : 'q6',
  fourOverSix: errors[values.four_over_six ?? 0],
  outer: values.per_row ? 'row' : 'tensor',
  mxScale: values.floor ? 'floor' : 'up',
  pow2Scales: values.pow2 === 1,
  source: act,
  amax: findsAmax ? undefined : values.amax,
  random: values.random,
  stream: values.stream,
})

function write({ findsAmax }: Row, matrix: QuantizedMatrix, into: QuantizeValues, square: boolean): void {
  const { format, codes, scales, amax, rows } = matrix
  const blockByBlock = formats[format].scale === 'f32' && !square
  into.codes.set(codes)
  into.scales.set(blockByBlock ? transpose(scales as Float32Array, rows, scales.length / rows) : scales)
  if (findsAmax) into.amax!.set(amax)
}

function quantizeLines(row: Row, layout: Layout, values: QuantizeValues, dims: Dims, act: Activation): void {
  const columns = layout === 'columns'
  const lines = columns ? dims.cols! : dims.rows!
  const length = columns ? dims.rows! : dims.cols!
  let x = columns ? transpose(values.x, dims.rows!, dims.cols!) : values.x
  if (values.hadamard)
    x = rotate(x, lines, length, { size: values.hadamard, signs: values.signs!, bf16: act === 'bf16' })
  write(row, quantizeMatrix(x, lines, length, optionsOf(row, values, act)), values, false)
}

/** The image of the transposed matrix with the same codes and scales. */
function transposed({ format: name, codes, scales, rows, cols }: QuantizedMatrix, into: QuantizeValues): void {
  const { element, block, squareScalePerRow } = formats[name]
  const whole = !Number.isFinite(block)
  for (let c = 0; c < cols; c++)
    for (let r = 0; r < rows; r += 8 / element.bits) {
      const low = codeAt(codes, element.bits, r * cols + c)
      const high = element.bits === 4 ? codeAt(codes, 4, (r + 1) * cols + c) : 0
      into.codes_t![((c * rows + r) * element.bits) / 8] = low | (high << 4)
    }
  const across = whole ? 1 : Math.ceil(cols / block)
  const down = whole ? 1 : Math.ceil(rows / block)
  for (let i = 0; i < into.scales_t!.length; i++) {
    const tileColumn = squareScalePerRow ? Math.floor(i / down / block) : Math.floor(i / down)
    into.scales_t![i] = scales[(i % down) * (squareScalePerRow ? block : 1) * across + tileColumn]!
  }
}

function quantizeSquare(row: Row, values: QuantizeValues, { rows, cols }: Dims, act: Activation): void {
  const x = values.rounded ? values.x.map(roundBf16) : values.x
  const options = { ...optionsOf(row, values, values.rounded ? 'bf16' : act), square: true }
  const matrix = quantizeMatrix(x, rows!, cols!, options)
  write(row, matrix, values, true)
  if (values.codes_t) transposed(matrix, values)
}

function quantizeBoth(row: Row, values: QuantizeValues, dims: Dims, act: Activation): void {
  const x = mapped(values.x, values, dims, act)
  quantizeLines(row, 'rows', { ...values, x, hadamard: 0 }, dims, act)
  const { codes_t, scales_t, amax_t, stream_t } = values
  const columns = { ...values, x, codes: codes_t!, scales: scales_t!, amax: amax_t, stream: stream_t! }
  quantizeLines(row, 'columns', columns, dims, act)
}

/** Shape words of the codes and scales of an image [lines, length]. */
function imageArgs({ element, block, scale }: NumberFormat, lines: string, length: string, square: boolean) {
  const codes = output('u8', lines, element.bits === 4 ? `${length}/2` : length)
  if (!Number.isFinite(block)) return { codes, scales: output('f32', 1) }
  if (scale !== 'f32') return { codes, scales: output('u8', lines, `${length}/${block}`) }
  const blocks = `${length.slice(0, 3)}_blocks`
  return { codes, scales: square ? output('f32', `${lines.slice(0, 3)}_blocks`, blocks) : output('f32', blocks, lines) }
}

/** Largest magnitudes that kernels of a format read or write, by what name. */
function amaxArgs({ format, findsAmax }: Row, shape: string | number, name = 'amax'): Args {
  const { tensorScale, block } = formats[format]
  if (findsAmax) return { [name]: output('f32', shape) }
  return tensorScale || !Number.isFinite(block) ? { [name]: input('f32', shape) } : {}
}

function linesKernel(row: Row, layout: 'rows' | 'columns', eden: boolean): Kernel {
  const { format: name, scalars, cuda } = row
  const format = formats[name]
  const [lines, length] = layout === 'rows' ? (['rows', 'cols'] as const) : (['cols', 'rows'] as const)
  return defineKernel<Args>({
    name: `quantize_${snakeCase(name)}${eden ? '_eden' : ''}_${layout}`,
    args: {
      ...imageArgs(format, lines, length, false),
      x: input('act', 'rows', 'cols'),
      ...amaxArgs(row, format.tensorScale ? 'amaxes' : 2),
      signs: optional(input('u32', 'sign_words')),
      random: optional(input('u32', 3)),
      hadamard: i32,
      ...(eden ? {} : { rounding: i32 }),
      stream: u32,
      ...(eden ? { limit: f32, bound: f32, per_row: i32 } : scalars),
    },
    reference: (values, dims, act) => quantizeLines(row, layout, values as unknown as QuantizeValues, dims, act),
    cases: quantizeCases(name, layout, eden),
    tolerance: 0,
    ...(cuda ? { cuda: cuda(layout) } : {}),
  })
}

function squareKernel(row: Row): Kernel {
  const { format: name, scalars, cuda } = row
  const format = formats[name]
  const column = imageArgs(format, 'cols', 'rows', true)
  const { per_row, ...rest } = scalars
  return defineKernel<Args>({
    name: `quantize_${snakeCase(name)}_square`,
    args: {
      ...imageArgs(format, 'rows', 'cols', true),
      codes_t: optional(column.codes),
      scales_t: optional(column.scales as TensorArg<'u8' | 'f32', false>),
      x: input('act', 'rows', 'cols'),
      ...amaxArgs(row, 2),
      random: optional(input('u32', 3)),
      rounding: i32,
      stream: u32,
      ...(rounds(name, 'square') ? { rounded: i32 } : {}),
      ...rest,
    },
    reference: (values, dims, act) => quantizeSquare(row, values as unknown as QuantizeValues, dims, act),
    cases: quantizeCases(name, 'square', false),
    tolerance: 0,
    ...(cuda ? { cuda: cuda('square') } : {}),
  })
}

function bothKernel(row: Row): Kernel {
  const { format: name, scalars, cuda } = row
  const format = formats[name]
  const column = imageArgs(format, 'cols', 'rows', false)
  const { per_row, ...rest } = scalars
  return defineKernel<Args>({
    name: `quantize_${snakeCase(name)}_both`,
    args: {
      ...imageArgs(format, 'rows', 'cols', false),
      codes_t: column.codes,
      scales_t: column.scales,
      x: input('act', 'rows', 'cols'),
      ...(maps(name, 'both') ? mappingArgs : {}),
      ...amaxArgs(row, 2),
      ...amaxArgs(row, 2, 'amax_t'),
      signs: optional(input('u32', 'sign_words')),
      random: optional(input('u32', 3)),
      hadamard: i32,
      rounding: i32,
      stream: u32,
      stream_t: u32,
      ...rest,
    },
    reference: (values, dims, act) => quantizeBoth(row, values as unknown as QuantizeValues, dims, act),
    cases: quantizeCases(name, 'both', false),
    tolerance: 0,
    ...(cuda ? { cuda: cuda('both') } : {}),
  })
}

export interface FormatKernels {
  readonly rows: Kernel
  readonly columns: Kernel
  readonly square: Kernel
  /** Where there are blocks. */
  readonly both?: Kernel
  /** Whether `both` reads x as mapped (src/kernels/shared/mapping.ts). */
  readonly maps: boolean
  /** Whether the kernels write amax; else one of amax.ts goes before them. */
  readonly findsAmax: boolean
  /** Whether `square` rounds x to BF16 as it reads it, if asked. */
  readonly rounds: boolean
  /** MS-EDEN, where the format has it. */
  readonly eden?: { readonly rows: Kernel; readonly columns: Kernel }
}

const kernelsOf = (row: Row): FormatKernels => ({
  rows: linesKernel(row, 'rows', false),
  columns: linesKernel(row, 'columns', false),
  square: squareKernel(row),
  maps: maps(row.format, 'both'),
  findsAmax: row.findsAmax === true,
  rounds: rounds(row.format, 'square'),
  ...(Number.isFinite(formats[row.format].block) ? { both: bothKernel(row) } : {}),
  ...(formats[row.format].tensorScale
    ? { eden: { rows: linesKernel(row, 'rows', true), columns: linesKernel(row, 'columns', true) } }
    : {}),
})

/** The kernels of each format. */
export const quantize = Object.fromEntries(rows.map(row => [row.format, kernelsOf(row)])) as Readonly<
  Record<FormatName, FormatKernels>
>

/** All of them, for the list of kernels. */
export const quantizeKernels: readonly Kernel[] = Object.values(quantize).flatMap(
  ({ rows, columns, square, both, eden }) => [
    rows,
    columns,
    square,
    ...(both ? [both] : []),
    ...(eden ? [eden.rows, eden.columns] : []),
  ],
)
