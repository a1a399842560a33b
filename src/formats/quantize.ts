import { wantArgument, wantChoices, wantFloats, wantFormat, wantObject } from './arguments.ts'
import { type FormatName, formats, type NumberFormat } from './formats.ts'
import { decode, e4m3, encodeStochastic, type MiniFloat } from './minifloat.ts'
import { philox } from './philox.ts'
import { type BlockScaler, FLT_MAX, multiplierOf, scalers, tensorScale } from './scales.ts'

/**
 * Quantisation of a matrix [rows, cols] into blocks along its columns, exact to the bit: every operation is one FP32 operation.
 *
 *   amax       the largest magnitude, NaN ignored, of the matrix (or of each row)
 *   scale      of each block (or square tile) from its own largest magnitude: src/formats/scales.ts
 *   code       round(fp32(x * multiplier)): nearest-even, or stochastic with addressed random bits
 *
 * Randomness: the 16 elements of group g = row * ceil(cols / 16) + floor(col / 16), whatever the block size, take the 16 bytes of
 * Philox(key = seed; counter = (g low, g high, stream, step)); byte j of word i belongs to element 4i + j.
 *
 * Four-over-six (arXiv 2512.02010) tries the scales s and 1.5 s and keeps the second where its error is strictly smaller. The error is
 * an FP32 sum of |v - x| or (v - x)^2, sequential over the 16 elements of a row; the rows of a tile are added as a tree, r with r + 8, + 4, + 2, + 1.
 *
 * MS-EDEN (arXiv 2601.22813): limit v = 6 / (0.93 * 17/16), bound 255.99 v, zero scales replaced by 1, elements u = fp32(x * multiplier) to
 * nearest q. The scale is corrected by c = sum u^2 / sum uq, both sums over a tree of i with i + 8, + 4, + 2, + 1, c = 1 where sum uq is 0 or
 * c not finite; fp32(scale * c) is rounded stochastically to an E4M3 with the upper 24 bits of word 0 of the group.
 *
 * Blocks at the right and lower edge may be short, as if the matrix were padded with zeros. Source: docs/numerics.md.
 */
export interface QuantizeOptions {
  readonly format: FormatName
  /** Default nearest. `eden` needs nvfp4. */
  readonly round?: 'nearest' | 'stochastic' | 'eden' | undefined
  /** One scale for a square tile instead of 1 x block. */
  readonly square?: boolean | undefined
  /** Order of operations of E4M3 block scales; default q6. */
  readonly scaleOrder?: 'q6' | 'm6' | undefined
  readonly fourOverSix?: 'mae' | 'mse' | undefined
  /** One outer scale for the tensor (default) or for each row. */
  readonly outer?: 'tensor' | 'row' | undefined
  /** Largest quotient aimed at as a share of the largest element; default 1. */
  readonly headroom?: number | undefined
  readonly pow2Scales?: boolean | undefined
  /** UE8M0 scales: default up. */
  readonly mxScale?: 'up' | 'floor' | undefined
  /** Dtype the values had; it bounds FP32 scales of tiny blocks. Default f32. */
  readonly source?: 'f32' | 'bf16' | undefined
  /** Largest magnitude, found elsewhere: [amax] or one for each row if `outer` is `row`. Default: found here. */
  readonly amax?: Float32Array | undefined
  /** u32[3]: seed low, seed high, step. Needed unless `round` is `nearest`. */
  readonly random?: ArrayLike<number> | undefined
  /** Which decisions to draw; the same (random, stream) gives the same codes. Default 0. */
  readonly stream?: number | undefined
}

/** A quantised matrix [rows, cols], blocks along cols. */
export interface QuantizedMatrix {
  readonly format: FormatName
  readonly rows: number
  readonly cols: number
  /** [rows, cols], or [rows, cols/2] for 4-bit elements, even columns in the low nibble. */
  readonly codes: Uint8Array
  /** [rows, ceil(cols / block)]; square FP32 scales [ceil(rows / block), ceil(cols / block)]; [1] with one scale for all. */
  readonly scales: Uint8Array | Float32Array
  /** [largest magnitude, 1 if a value was not finite], or the largest magnitude of each row. */
  readonly amax: Float32Array
  /** Whether `amax` holds one for each row. */
  readonly outer: 'tensor' | 'row'
  /** The outer scale is amax / bound; 1 in formats without one. */
  readonly bound: number
}

const fround = Math.fround
const EDEN_LIMIT = fround(6 / (0.93 * (17 / 16)))
const EDEN_BOUND = fround(255.99 * EDEN_LIMIT)
/** E4M3 of 1. */
const ONE = 0x38

/** [largest magnitude, 1 if any value is NaN or infinite else 0]. NaN does not count as a magnitude. */
export function amaxOf(values: Float32Array, into: Float32Array = new Float32Array(2)): Float32Array {
  let amax = 0
  let bad = 0
  for (let i = 0; i < values.length; i++) {
    const a = Math.abs(values[i]!)
    if (a > amax) amax = a
    if (!(a <= FLT_MAX)) bad = 1
  }
  into[0] = amax
  if (into.length > 1) into[1] = bad
  return into
}

/** Largest magnitude of each row. */
export function amaxOfRows(values: Float32Array, rows: number, cols: number): Float32Array {
  const amax = new Float32Array(rows)
  for (let r = 0; r < rows; r++) amaxOf(values.subarray(r * cols, (r + 1) * cols), amax.subarray(r, r + 1))
  return amax
}

/** The quotient aimed at for the largest element of a block, and `limit` times the largest block scale aimed at. */
export function limitsOf(options: Pick<QuantizeOptions, 'format' | 'round' | 'headroom' | 'fourOverSix'>): {
  limit: number
  bound: number
} {
  const format: NumberFormat = formats[options.format]
  if (options.round === 'eden') return { limit: EDEN_LIMIT, bound: EDEN_BOUND }
  const limit = fround(format.element.max * (options.headroom ?? 1))
  if (!format.tensorScale) return { limit, bound: 1 }
  return { limit, bound: fround((options.fourOverSix ? 256 : e4m3.max) * limit) }
}

/** Words that options may be. */
const choices = {
  round: ['nearest', 'stochastic', 'eden'],
  scaleOrder: ['q6', 'm6'],
  fourOverSix: ['mae', 'mse'],
  outer: ['tensor', 'row'],
  mxScale: ['up', 'floor'],
  source: ['f32', 'bf16'],
}

/**
 * @throws TypeError on options that are none, RangeError on options that exclude each other or that the format does not have
 */
export function checkOptions(options: QuantizeOptions): void {
  wantObject('options', options)
  wantFormat('options.format', options.format)
  wantChoices(options as object as Record<string, unknown>, choices)
  const { round = 'nearest', fourOverSix, square, outer, headroom, random, format: name } = options
  const { scale, tensorScale } = formats[name]
  const no = (what: string): never => {
    throw new RangeError(`${name}: ${what}`)
  }
  if (fourOverSix && !tensorScale) no('four-over-six needs a format with E4M3 block scales, such as nvfp4')
  if (fourOverSix && round !== 'nearest') no(`four-over-six rounds to nearest, not ${round}`)
  if (round === 'eden' && !tensorScale) no('MS-EDEN needs a format with E4M3 block scales, such as nvfp4')
  if (round === 'eden' && (square || headroom !== undefined)) no('MS-EDEN has 1x16 blocks and a headroom of its own')
  if (outer === 'row' && !tensorScale) no('has no outer scale to keep for each row')
  if (outer === 'row' && square) no('square tiles span rows, so the outer scale cannot be one for each row')
  if (headroom !== undefined && !(headroom > 0 && headroom <= 1)) no(`headroom must be in (0, 1], got ${headroom}`)
  if (options.scaleOrder === 'm6' && scale !== 'e4m3') no('the order m6 is one of E4M3 block scales')
  if (options.pow2Scales && scale !== 'f32') no('powers of two are a choice for FP32 scales, as of fp8')
  if (options.mxScale === 'floor' && scale !== 'ue8m0') no("OCP's floor is a choice for UE8M0 scales, as of mxfp4")
  if (round !== 'nearest' && random?.length !== 3) no(`${round} rounding needs random = [seed low, seed high, step]`)
}

/** Values of a 4-bit or 8-bit code array. */
export const codeAt = (codes: Uint8Array, bits: number, index: number): number =>
  bits === 8 ? codes[index]! : (codes[index >> 1]! >> ((index & 1) * 4)) & 15

function put(codes: Uint8Array, bits: number, index: number, code: number): void {
  if (bits === 8) codes[index] = code
  else if ((index & 1) === 0) codes[index >> 1] = (codes[index >> 1]! & 0xf0) | code
  else codes[index >> 1] = (codes[index >> 1]! & 0x0f) | (code << 4)
}

/** Sum over a tree: i with i + 8, then i + 4, i + 2, i + 1. Overwrites `terms`, 16 of them. */
function treeSum(terms: Float32Array): number {
  for (let half = 8; half > 0; half >>= 1) for (let i = 0; i < half; i++) terms[i] = terms[i]! + terms[i + half]!
  return terms[0]!
}

/**
 * Quantises `values`, [rows, cols] row-major.
 * @throws RangeError on options that exclude each other, on an odd number of columns of a 4-bit format, or on sizes that do not fit
 */
export function quantizeMatrix(
  values: Float32Array,
  rows: number,
  cols: number,
  options: QuantizeOptions,
): QuantizedMatrix {
  wantFloats('values', values)
  checkOptions(options)
  const format = formats[options.format]
  const { element } = format
  for (const [name, size] of Object.entries({ rows, cols }))
    wantArgument(Number.isSafeInteger(size) && size >= 0, name, size, 'a whole number from 0')
  if (values.length !== rows * cols)
    throw new RangeError(`${values.length} values are not a matrix of ${rows} x ${cols}`)
  if ((cols * element.bits) % 8 !== 0)
    throw new RangeError(`${options.format} packs two codes to a byte, so the columns must be even, got ${cols}`)
  const perRow = options.outer === 'row'
  if (options.amax !== undefined) wantFloats('options.amax', options.amax)
  const amax = options.amax ?? (perRow ? amaxOfRows(values, rows, cols) : amaxOf(values))
  if (perRow ? amax.length !== rows : amax.length === 0)
    throw new RangeError(`amax has ${amax.length} elements, ${perRow ? `one for each of ${rows} rows` : 'one'} wanted`)

  const whole = !Number.isFinite(format.block)
  const width = whole ? cols : format.block
  const height = whole ? rows : options.square ? format.block : 1
  const across = whole ? 1 : Math.ceil(cols / width)
  const repeat = height > 1 && format.squareScalePerRow ? height : 1
  const scaleRows = repeat > 1 ? rows : Math.ceil(rows / height)
  const codes = new Uint8Array((rows * cols * element.bits) / 8)
  const count = whole ? 1 : scaleRows * across
  const scales = format.scale === 'f32' ? new Float32Array(count) : new Uint8Array(count)
  const { limit, bound } = limitsOf(options)
  const scaler = scalers[format.scale]({
    limit,
    bound,
    scaleOrder: options.fourOverSix || options.round === 'eden' ? 'q6' : (options.scaleOrder ?? 'q6'),
    mxScale: options.mxScale ?? 'up',
    pow2Scales: options.pow2Scales ?? false,
    source: options.source ?? 'f32',
  })
  const tile: Tile = { values, cols, r0: 0, r1: 0, c0: 0, c1: 0, codes, random: randomOf(options, cols) }
  const roundTile = roundings[options.round ?? 'nearest']

  for (tile.r0 = 0; tile.r0 < rows; tile.r0 += height)
    for (tile.c0 = 0; tile.c0 < cols; tile.c0 += width) {
      tile.r1 = Math.min(tile.r0 + height, rows)
      tile.c1 = Math.min(tile.c0 + width, cols)
      const outer = amax[perRow ? tile.r0 : 0]!
      scaler.set(whole && options.amax ? outer : tileAmax(tile), outer)
      if (options.fourOverSix) chooseScale(tile, element, scaler, outer, limit, bound, options.fourOverSix)
      roundTile(tile, format, scaler, outer, bound)
      const first = whole ? 0 : (repeat > 1 ? tile.r0 : tile.r0 / height) * across + tile.c0 / width
      for (let i = 0; i < (repeat > 1 ? tile.r1 - tile.r0 : 1); i++) scales[first + i * across] = scaler.stored
    }
  return { format: options.format, rows, cols, codes, scales, amax, outer: perRow ? 'row' : 'tensor', bound }
}

interface Tile {
  readonly values: Float32Array
  readonly cols: number
  readonly codes: Uint8Array
  /** Fills four words with the randomness of the group of 16 elements at (row, col). */
  readonly random: (row: number, col: number) => Uint32Array
  r0: number
  r1: number
  c0: number
  c1: number
}

function tileAmax({ values, cols, r0, r1, c0, c1 }: Tile): number {
  let amax = 0
  for (let r = r0; r < r1; r++)
    for (let c = c0; c < c1; c++) {
      const a = Math.abs(values[r * cols + c]!)
      if (a > amax) amax = a
    }
  return amax
}

function randomOf({ random = [0, 0, 0], stream = 0 }: QuantizeOptions, cols: number): Tile['random'] {
  const words = new Uint32Array(4)
  const groups = Math.ceil(cols / 16)
  const counter = [0, 0, stream, random[2]!]
  return (row, col) => {
    const group = row * groups + Math.floor(col / 16)
    counter[0] = group >>> 0
    counter[1] = Math.floor(group / 2 ** 32)
    return philox(counter, random, words)
  }
}

type RoundTile = (tile: Tile, format: NumberFormat, scaler: BlockScaler, amax: number, bound: number) => void

const roundings: Readonly<Record<NonNullable<QuantizeOptions['round']>, RoundTile>> = {
  nearest({ values, cols, codes, r0, r1, c0, c1 }, { element }, { multiplier }) {
    for (let r = r0; r < r1; r++)
      for (let i = r * cols + c0; i < r * cols + c1; i++)
        put(codes, element.bits, i, element.nearest(fround(values[i]! * multiplier)))
  },

  stochastic({ values, cols, codes, random, r0, r1, c0, c1 }, { element }, { multiplier }) {
    let words: Uint32Array = new Uint32Array(4)
    for (let r = r0; r < r1; r++)
      for (let c = c0; c < c1; c++) {
        if ((c & 15) === 0) words = random(r, c)
        const byte = (words[(c >> 2) & 3]! >>> ((c & 3) * 8)) & 255
        const i = r * cols + c
        put(codes, element.bits, i, encodeStochastic(element, fround(values[i]! * multiplier), byte))
      }
  },

  eden({ values, cols, codes, random, r0, c0, c1 }, { element }, scaler, amax, bound) {
    if (scaler.stored === 0) {
      scaler.stored = ONE
      scaler.multiplier = multiplierOf(ONE, tensorScale(amax, bound).decode)
    }
    const squares = new Float32Array(16)
    const products = new Float32Array(16)
    for (let c = c0; c < c1; c++) {
      const i = r0 * cols + c
      const u = fround(values[i]! * scaler.multiplier)
      const code = element.nearest(u)
      put(codes, element.bits, i, code)
      squares[c - c0] = u * u
      products[c - c0] = u * decode(element, code)
    }
    const c = fround(treeSum(squares) / treeSum(products))
    const corrected = fround(decode(e4m3, scaler.stored) * (c <= FLT_MAX ? c : 1))
    scaler.stored = encodeStochastic(e4m3, corrected, random(r0, c0)[0]! >>> 8, 24)
  },
}

/** Replaces the scale of a tile by 1.5 times it where that leaves a strictly smaller error. */
function chooseScale(
  tile: Tile,
  element: MiniFloat,
  scaler: BlockScaler,
  amax: number,
  limit: number,
  bound: number,
  error: 'mae' | 'mse',
): void {
  const scale = tensorScale(amax, bound)
  const base = fround(fround(tileAmax(tile) / limit) * scale.encode)
  const stored = e4m3.nearest(fround(base * 1.5))
  const multiplier = multiplierOf(stored, scale.decode)
  const of = (code: number, by: number) =>
    tileError(tile, element, decode(e4m3, code), by, amax, bound, error === 'mse')
  if (of(stored, multiplier) < of(scaler.stored, scaler.multiplier)) {
    scaler.stored = stored
    scaler.multiplier = multiplier
  }
}

const rowErrors = new Float32Array(16)

function tileError(
  { values, cols, r0, r1, c0, c1 }: Tile,
  element: MiniFloat,
  scale: number,
  multiplier: number,
  amax: number,
  bound: number,
  squared: boolean,
): number {
  rowErrors.fill(0)
  for (let r = r0; r < r1; r++) {
    let sum = 0
    for (let i = r * cols + c0; i < r * cols + c1; i++) {
      const q = decode(element, element.nearest(fround(values[i]! * multiplier)))
      const v = fround(fround(fround(q * scale) * amax) / bound)
      const d = fround(v - values[i]!)
      sum = fround(sum + (squared ? fround(d * d) : Math.abs(d)))
    }
    rowErrors[r - r0] = sum
  }
  return treeSum(rowErrors)
}
