/**
 * Small floating-point formats: sign, exponent with a bias, mantissa, subnormals, as rows of data.
 *
 *   value(s, e, m) = (-1)^s * 2^(e - bias) * (1 + m / 2^M)        e > 0
 *                  = (-1)^s * 2^(1 - bias) * m / 2^M              e = 0
 *
 * A code without its sign counts the representable magnitudes upwards from 0, so the magnitudes around a = |x| are lo = step * floor(a / step)
 * and lo + step with step = 2^(max(exponent(a), 1 - bias) - M).
 *
 *   nearest      a / step to the nearest integer, ties to even code; magnitudes above the largest saturate
 *   stochastic   up with probability T / 256, T = floor((a - lo) / step * 256): up iff T + r >= 256 for r = 8 random bits
 *
 * The stochastic rule is exact in integers: values on the grid never move, and truncating T biases the magnitude by step / 512 towards zero.
 * The sign of zero is kept. Conversion saturates, infinities included; NaN becomes the positive code `nan`, which in E2M1 is +6,
 * as in PTX `cvt.*.satfinite`. Source: docs/numerics.md, "Scalar formats" and "Stochastic rounding".
 */
export interface MiniFloat {
  readonly name: 'e2m1' | 'e4m3' | 'e5m2'
  /** Bits of a code, its sign included. */
  readonly bits: number
  readonly mantissaBits: number
  readonly bias: number
  /** Largest finite magnitude. */
  readonly max: number
  /** The code that NaN is converted to. */
  readonly nan: number
  /** The value of every code. */
  readonly values: Float32Array
  /** `encodeNearest` of this format. */
  readonly nearest: (x: number) => number
}

interface Layout {
  readonly bits: number
  readonly mantissaBits: number
  readonly bias: number
  readonly max: number
  readonly nan: number
  /** The magnitude of which the codes above `max` are: Infinity for the first, NaN for the rest. */
  readonly infinity: boolean
}

function miniFloat(name: MiniFloat['name'], layout: Layout): MiniFloat {
  const { bits, mantissaBits, bias, max } = layout
  const sign = 1 << (bits - 1)
  const values = new Float32Array(2 * sign)
  let infinite = !layout.infinity
  for (let code = 0; code < sign; code++) {
    const exponent = code >> mantissaBits
    const mantissa = (code & ((1 << mantissaBits) - 1)) / 2 ** mantissaBits
    let value = exponent > 0 ? 2 ** (exponent - bias) * (1 + mantissa) : 2 ** (1 - bias) * mantissa
    if (value > max) {
      value = infinite ? Number.NaN : Number.POSITIVE_INFINITY
      infinite = true
    }
    values[code] = value
    values[code + sign] = -value
  }
  const format: MiniFloat = {
    name,
    bits,
    mantissaBits,
    bias,
    max,
    nan: layout.nan,
    values,
    nearest: x => encodeNearest(format, x),
  }
  return format
}

/** E2M1 to nearest, without a branch on the exponent. */
function encodeE2M1(x: number): number {
  if (Number.isNaN(x)) return 7
  const a = Math.abs(x)
  const code = +(a > 0.25) + +(a >= 0.75) + +(a > 1.25) + +(a >= 1.75) + +(a > 2.5) + +(a >= 3.5) + +(a > 5)
  return x < 0 || Object.is(x, -0) ? code | 8 : code
}

/** 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; no infinity, no NaN. */
export const e2m1: MiniFloat = {
  ...miniFloat('e2m1', { bits: 4, mantissaBits: 1, bias: 1, max: 6, nan: 0x7, infinity: false }),
  nearest: encodeE2M1,
}
/** The "fn" variant: largest 448 = 0x7E, NaN 0x7F and 0xFF, no infinity. */
export const e4m3 = miniFloat('e4m3', { bits: 8, mantissaBits: 3, bias: 7, max: 448, nan: 0x7f, infinity: false })
/** Largest 57344 = 0x7B, infinity 0x7C, NaN 0x7D to 0x7F. */
export const e5m2 = miniFloat('e5m2', { bits: 8, mantissaBits: 2, bias: 15, max: 57344, nan: 0x7f, infinity: true })

const float = new Float32Array(1)
const word = new Uint32Array(float.buffer)

/** Code of the largest magnitude not above `a`, for 0 <= a <= max; `below` and `step` describe the gap above it. */
let below = 0
let step = 0
function floorCode(format: MiniFloat, a: number): number {
  float[0] = a
  const lowest = 1 - format.bias
  let exponent = (word[0]! >>> 23) - 127
  if (exponent < lowest) exponent = lowest
  step = 2 ** (exponent - format.mantissaBits)
  const multiple = Math.floor(a / step)
  below = multiple * step
  return ((exponent - lowest) << format.mantissaBits) + multiple
}

const signOf = (format: MiniFloat, x: number): number => (x < 0 || Object.is(x, -0) ? 1 << (format.bits - 1) : 0)

/** Code of the representable value nearest to the FP32 `x`, ties to even code, saturating. */
export function encodeNearest(format: MiniFloat, x: number): number {
  if (Number.isNaN(x)) return format.nan
  const a = Math.min(Math.abs(x), format.max)
  const code = floorCode(format, a)
  const twice = 2 * (a - below)
  return signOf(format, x) | (twice > step || (twice === step && (code & 1) === 1) ? code + 1 : code)
}

/** Stochastic rounding of the FP32 `x` with `random` of `bits` random bits (default 8), saturating. */
export function encodeStochastic(format: MiniFloat, x: number, random: number, bits = 8): number {
  if (Number.isNaN(x)) return format.nan
  const a = Math.min(Math.abs(x), format.max)
  const code = floorCode(format, a)
  const T = Math.floor(((a - below) / step) * 2 ** bits)
  return signOf(format, x) | (T + random >= 2 ** bits ? code + 1 : code)
}

/** The value of a code. */
export const decode = (format: MiniFloat, code: number): number => format.values[code]!
