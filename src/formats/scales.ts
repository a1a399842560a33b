import type { NumberFormat } from './formats.ts'
import { e4m3 } from './minifloat.ts'
import { encodeFloor, encodeUp } from './ue8m0.ts'

/**
 * Scales. With b the largest magnitude of a block, `limit` the quotient aimed at (6 for E2M1) and every operation one FP32 operation:
 *
 *   E4M3    S = min(bound / amax, FLT_MAX), 1 where amax is 0 or infinite          D = 1 / S
 *           q6: s = (b / limit) * S          m6: s = b * (S * (1 / limit))
 *           stored = E4M3(min(s, FLT_MAX))   multiplier = min(1 / (value(stored) * D), FLT_MAX)
 *   UE8M0   stored = round up of b * (1 / limit), or OCP's floor                   multiplier = 2^(127 - stored)
 *   FP32    multiplier = limit / b, 1 where b is 0 or infinite, the source's largest finite value where that is infinite
 *           stored = 1 / multiplier
 *
 * An element is then round(x * multiplier). q6 is the paper's order of operations and TransformerEngine's up to 2.13, m6 that of 2.14 on.
 * Source: docs/numerics.md, "NVFP4 quantisation", "FP8 baseline" and "MXFP4 / MXFP8".
 */
export const FLT_MAX = 3.4028234663852886e38
const BF16_MAX = 3.3895313892515355e38

const fround = Math.fround
/** CUDA's fminf(x, FLT_MAX): also for NaN. */
const clamp = (x: number): number => (x < FLT_MAX ? x : FLT_MAX)

export interface ScaleOptions {
  /** Quotient aimed at for the largest element of a block. */
  readonly limit: number
  /** `limit` times the largest block scale aimed at; formats with a tensor scale only. */
  readonly bound: number
  readonly scaleOrder: 'q6' | 'm6'
  readonly mxScale: 'up' | 'floor'
  readonly pow2Scales: boolean
  readonly source: 'f32' | 'bf16'
}

/** The scale of one block at a time; `amax` of the tensor or of the row belongs to the call, because it may change from row to row. */
export interface BlockScaler {
  /** What is written: a code, or an FP32. */
  stored: number
  /** What elements are multiplied with before they are rounded. */
  multiplier: number
  /** Sets both for a block with largest magnitude `b` in a tensor (or row) with largest magnitude `amax`. */
  set(b: number, amax: number): void
}

/** S and D of a tensor with largest magnitude `amax`. */
export function tensorScale(amax: number, bound: number): { encode: number; decode: number } {
  let encode = clamp(fround(bound / amax))
  if (amax === 0 || encode === 0) encode = 1
  return { encode, decode: fround(1 / encode) }
}

/** The multiplier that undoes a stored E4M3 scale. */
export const multiplierOf = (stored: number, decode: number): number =>
  clamp(fround(1 / fround(e4m3.values[stored]! * decode)))

function e4m3Scaler({ limit, bound, scaleOrder }: ScaleOptions): BlockScaler {
  let known = -1
  let scale = { encode: 1, decode: 1 }
  let product = 1
  const byDivision = scaleOrder === 'q6'
  return {
    stored: 0,
    multiplier: 1,
    set(b, amax) {
      if (amax !== known) {
        known = amax
        scale = tensorScale(amax, bound)
        product = fround(scale.encode * fround(1 / limit))
      }
      const s = byDivision ? fround(fround(b / limit) * scale.encode) : fround(b * product)
      this.stored = e4m3.nearest(clamp(s))
      this.multiplier = multiplierOf(this.stored, scale.decode)
    },
  }
}

function ue8m0Scaler({ limit, mxScale }: ScaleOptions): BlockScaler {
  const reciprocal = fround(1 / limit)
  const emax = Math.floor(Math.log2(limit))
  return {
    stored: 0,
    multiplier: 1,
    set(b) {
      this.stored = mxScale === 'up' ? encodeUp(fround(b * reciprocal)) : encodeFloor(b, emax)
      this.multiplier = 2 ** (127 - this.stored)
    },
  }
}

const float = new Float32Array(1)
const word = new Uint32Array(float.buffer)
function floorToPowerOfTwo(x: number): number {
  float[0] = x
  word[0] = word[0]! & 0xff800000
  return float[0]!
}

function f32Scaler({ limit, pow2Scales, source }: ScaleOptions): BlockScaler {
  return {
    stored: 1,
    multiplier: 1,
    set(b) {
      let multiplier = b > 0 && b <= FLT_MAX ? fround(limit / b) : 1
      if (multiplier > FLT_MAX) multiplier = source === 'bf16' ? BF16_MAX : FLT_MAX
      if (pow2Scales) multiplier = floorToPowerOfTwo(multiplier)
      this.multiplier = multiplier
      this.stored = fround(1 / multiplier)
    },
  }
}

export const scalers: Readonly<Record<NumberFormat['scale'], (options: ScaleOptions) => BlockScaler>> = {
  e4m3: e4m3Scaler,
  ue8m0: ue8m0Scaler,
  f32: f32Scaler,
}
