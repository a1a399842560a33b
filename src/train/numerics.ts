import { fromBf16 } from '../formats/bf16.ts'
import { formats } from '../formats/formats.ts'
import { rotate } from '../formats/hadamard.ts'
import type { QuantizedMatrix } from '../formats/quantize.ts'
import { reportOn } from '../formats/report.ts'
import { liesByBlocks } from '../ops/image.ts'
import type { Role, Watched } from '../ops/linear.ts'
import type { Tensor } from '../tensor/tensor.ts'

/**
 * What quantisation does to the operands of linear layers while a model trains: on some steps, of the first micro-batch, for every
 * operand that is quantised. All is computed on the host from a few lines of each operand, blocks and all:
 *
 *   snr_db       10 log10(sum x^2 / sum (v - x)^2), x the values (rotated where the recipe rotates), v those that the codes stand for
 *   flushed      share of values, not zero themselves, that became zero
 *   saturated    share of values beyond the largest element under their scale
 *   zero_scales  share of block scales that are zero
 *
 * `amax` is of the whole operand.
 */
export interface OperandNumerics {
  /** Such as `layers.3.mixer.in_proj`. */
  readonly linear: string
  readonly operand: Role
  readonly amax: number
  /** In dB; null without error, and without signal. */
  readonly snr_db: number | null
  readonly flushed: number
  readonly saturated: number
  readonly zero_scales: number
}

/** What a run records of a linear layer at a sampled step, for each operand that it quantises, or once if it quantises none. */
export interface NumericsRecord extends Partial<OperandNumerics> {
  readonly linear: string
  /** Norm of the gradient of the layer's weight, before clipping, and the share of its elements that are exactly zero. */
  readonly grad_norm: number
  readonly zero_wgrad: number
}

/** At most so many values of an operand are looked at, unless a line has more, and at most this share of them. */
const mostValues = 4096
const mostShare = 1 / 8
/** Of a line along the tokens, which costs as much as all lines beside it: so many pieces, evenly spread, of so many tokens, if it is longer. */
const pieces = 8
const pieceTokens = 256

/** Steps between two samples: at most about 50 in a run, and far enough apart to stay below 2 % of its time. */
export const sampledEvery = (steps: number): number => Math.max(40, Math.ceil(steps / 50))

export const isSampled = (step: number, steps: number): boolean => step === 1 || step % sampledEvery(steps) === 0

/** Which sample of a run a sampled step is, from 0. */
export const sampleOf = (step: number, steps: number): number => Math.floor(step / sampledEvery(steps))

const floatsOf = (tensor: Tensor): Float32Array =>
  tensor.dtype === 'bf16' ? fromBf16(tensor.read() as Uint16Array) : tensor.floats()

/** Part of an image: `count` lines from `first` on, and of each the pieces of `length` values that begin at `from`, which cut no block. */
interface Window {
  readonly first: number
  readonly count: number
  readonly from: readonly number[]
  readonly length: number
}

/** The values of a window, a line's pieces one after another; lines are columns of `values` where the image is of the transpose. */
function linesOf(values: Tensor, transposed: boolean, { first, count, from, length }: Window): Float32Array {
  const cols = values.shape[1]!
  if (!transposed) return floatsOf(values.part(first * cols, [count, cols]))
  const width = from.length * length
  const lines = new Float32Array(count * width)
  for (const [i, begin] of from.entries()) {
    const piece = values.part(begin * cols, [length, cols]).read()
    for (let r = 0; r < length; r++) {
      const few = piece.subarray(r * cols + first, r * cols + first + count)
      const floats = few instanceof Uint16Array ? fromBf16(few) : few
      for (let line = 0; line < count; line++) lines[line * width + i * length + r] = floats[line]!
    }
  }
  return lines
}

/** The same part of the image, as a matrix of its own. */
function imageLines({ image }: Watched, { first, count, from, length }: Window): QuantizedMatrix {
  const { format, rows, cols, codes, scales, amax, outer, bound } = image
  const { bits } = formats[format].element
  const tile = formats[format].block
  const perTile = scales.shape.length === 2 && scales.shape[0] !== rows
  /** The window of `lines` lines of `across` elements, which stand for all of the image's columns. */
  const cut = (tensor: Tensor, across: number, line: number, lines: number): Uint8Array | Float32Array => {
    if (length === cols) return tensor.part(line * across, [lines, across]).read() as Uint8Array | Float32Array
    const width = (length * across) / cols
    const parts = Array.from({ length: lines }, (_, i) =>
      from.map(begin => tensor.part((line + i) * across + (begin * across) / cols, [width]).read()),
    ).flat()
    const whole = new (parts[0]!.constructor as Uint8ArrayConstructor)(parts.length * width)
    for (const [i, part] of parts.entries()) whole.set(part as Uint8Array, i * width)
    return whole
  }
  const scale = (): Uint8Array | Float32Array => {
    if (scales.shape.length === 1) return scales.read() as Float32Array
    const across = scales.shape[1]!
    if (liesByBlocks(image)) {
      const blocks = from.flatMap(begin => Array.from({ length: Math.ceil(length / tile) }, (_, i) => begin / tile + i))
      const lines = new Float32Array(count * blocks.length)
      for (const [j, block] of blocks.entries()) {
        const few = scales.part(block * rows + first, [count]).floats()
        for (let line = 0; line < count; line++) lines[line * blocks.length + j] = few[line]!
      }
      return lines
    }
    return perTile ? cut(scales, across, Math.floor(first / tile), 1) : cut(scales, across, first, count)
  }
  return {
    format,
    rows: count,
    cols: from.length * length,
    codes: cut(codes, (cols * bits) / 8, first, count) as Uint8Array,
    scales: scale(),
    amax: (outer === 'row' ? amax.part(first, [count]) : amax).floats(),
    outer,
    bound,
  }
}

/** Which part of an image to look at; no tile of long blocks is cut. */
function chooseWindow({ image, lines, transposed }: Watched, sample: number): Window {
  const { rows, cols, format } = image
  const cuts = transposed && cols > pieces * pieceTokens && cols % (pieces * pieceTokens) === 0
  const length = cuts ? pieceTokens : cols
  const from = cuts ? Array.from({ length: pieces }, (_, i) => (i * cols) / pieces) : [0]
  const wanted = Math.floor(Math.min(mostValues, rows * cols * mostShare) / (from.length * length))
  const count = Math.min(lines, Math.max(1, Math.min(wanted, 16)))
  const { block } = formats[format]
  const tile = Number.isFinite(block) ? block : 1
  const starts = Math.max(1, Math.floor((lines - count) / tile) + 1)
  return { first: (sample % starts) * tile, count, from, length }
}

/** Enough digits for a few thousand values. */
const share = (value: number): number => Number(value.toFixed(6))

/**
 * Looks at one operand as it is made.
 * @param sample addresses the lines that are looked at: samples one after another come to all of them. Steps would not, because those that are
 * sampled share factors with the number of lines.
 */
export function measure(watched: Watched, sample: number): OperandNumerics {
  const { linear, role, values, transposed, request } = watched
  const window = chooseWindow(watched, sample)
  const { count, from, length } = window
  const lines = linesOf(values, transposed, window)
  const { hadamard } = request
  const quantised = hadamard
    ? rotate(lines, count, from.length * length, {
        size: hadamard.size,
        signs: hadamard.signs.read() as Uint32Array,
        bf16: values.dtype === 'bf16',
      })
    : lines
  const { snr, flushed, saturated, zeroScales } = reportOn(quantised, imageLines(watched, window))
  return {
    linear,
    operand: role,
    amax: request.amax.floats()[0]!,
    snr_db: Number.isFinite(snr) ? Number(snr.toFixed(3)) : null,
    flushed: share(flushed),
    saturated: share(saturated),
    zero_scales: share(zeroScales),
  }
}
