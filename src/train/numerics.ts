import { fromBf16 } from '../formats/bf16.ts'
import { formats } from '../formats/formats.ts'
import { rotate } from '../formats/hadamard.ts'
import type { QuantizedMatrix } from '../formats/quantize.ts'
import { reportOn } from '../formats/report.ts'
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

/** Steps between two samples: at most about 50 in a run, and far enough apart to stay below 2 % of its time. */
export const sampledEvery = (steps: number): number => Math.max(40, Math.ceil(steps / 50))

export const isSampled = (step: number, steps: number): boolean => step === 1 || step % sampledEvery(steps) === 0

const floatsOf = (tensor: Tensor): Float32Array =>
  tensor.dtype === 'bf16' ? fromBf16(tensor.read() as Uint16Array) : tensor.floats()

/** `count` lines of a matrix from `first` on; its columns where the image is of the transpose. [count, length of a line] */
function linesOf(values: Tensor, transposed: boolean, first: number, count: number): Float32Array {
  const [rows, cols] = values.shape as [number, number]
  if (!transposed) return floatsOf(values.part(first * cols, [count, cols]))
  const lines = new Float32Array(count * rows)
  const atOnce = Math.max(1, Math.floor(65536 / cols))
  for (let row = 0; row < rows; row += atOnce) {
    const height = Math.min(atOnce, rows - row)
    const piece = floatsOf(values.part(row * cols, [height, cols]))
    for (let r = 0; r < height; r++)
      for (let line = 0; line < count; line++) lines[line * rows + row + r] = piece[r * cols + first + line]!
  }
  return lines
}

/** The same lines of the image, as a matrix of their own. */
function imageLines({ image }: Watched, first: number, count: number): QuantizedMatrix {
  const { format, cols, codes, scales, amax, outer, bound } = image
  const { bits } = formats[format].element
  const width = (cols * bits) / 8
  const across = scales.shape.at(-1)!
  const tile = formats[format].block
  const perTile = scales.shape.length === 2 && scales.shape[0] !== image.rows
  const whole = scales.shape.length === 1
  const [from, height] = perTile ? [Math.floor(first / tile), 1] : [first, count]
  return {
    format,
    rows: count,
    cols,
    codes: codes.part(first * width, [count, width]).read() as Uint8Array,
    scales: (whole ? scales : scales.part(from * across, [height, across])).read() as Uint8Array | Float32Array,
    amax: (outer === 'row' ? amax.part(first, [count]) : amax).floats(),
    outer,
    bound,
  }
}

/** Which lines of an image to look at; no tile of long blocks is cut. */
function chooseLines({ image, lines }: Watched, step: number): { first: number; count: number } {
  const { rows, cols, format } = image
  const wanted = Math.floor(Math.min(mostValues, rows * cols * mostShare) / cols)
  const count = Math.min(lines, Math.max(1, Math.min(wanted, 16)))
  const { block } = formats[format]
  const tile = Number.isFinite(block) ? block : 1
  const starts = Math.max(1, Math.floor((lines - count) / tile) + 1)
  return { first: (step % starts) * tile, count }
}

/** Enough digits for a few thousand values. */
const share = (value: number): number => Number(value.toFixed(6))

/** Looks at one operand as it is made. @param step addresses the lines that are looked at. */
export function measure(watched: Watched, step: number): OperandNumerics {
  const { linear, role, values, transposed, image, request } = watched
  const { first, count } = chooseLines(watched, step)
  const lines = linesOf(values, transposed, first, count)
  const { hadamard } = request
  const quantised = hadamard
    ? rotate(lines, count, image.cols, {
        size: hadamard.size,
        signs: hadamard.signs.read() as Uint32Array,
        bf16: values.dtype === 'bf16',
      })
    : lines
  const { snr, flushed, saturated, zeroScales } = reportOn(quantised, imageLines(watched, first, count))
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
