/**
 * UE8M0: a power of two, value = 2^(code - 127) for codes 0 to 254; 255 is NaN. No sign, no zero. Code 0 is an FP32 subnormal.
 *
 *   round up   the smallest power of two not below v = amax / largest element, by the bits of v: its exponent field, plus 1 where its
 *              mantissa is not zero (not past 254; a subnormal v above half of the smallest normal number is code 1)
 *   floor      OCP MX v1.0: the exponent of amax minus that of the largest element; the largest elements of a block may then saturate
 *
 * Bits and not logarithms: log2 errs next to powers of two. Source: docs/numerics.md, "MXFP4 / MXFP8".
 */
const float = new Float32Array(1)
const word = new Uint32Array(float.buffer)

/** `v` = fp32(amax * fp32(1 / largest element)), not negative. */
export function encodeUp(v: number): number {
  if (Number.isNaN(v)) return 0xff
  if (v === Number.POSITIVE_INFINITY) return 0xfe
  float[0] = v
  const exponent = (word[0]! >>> 23) & 0xff
  const mantissa = word[0]! & 0x7fffff
  const up = mantissa !== 0 && exponent !== 0xfe && !(exponent === 0 && mantissa <= 0x400000)
  return up ? exponent + 1 : exponent
}

/** `emax` is the exponent of the largest element: 2 for E2M1, 8 for E4M3. */
export function encodeFloor(amax: number, emax: number): number {
  if (Number.isNaN(amax)) return 0xff
  float[0] = amax
  const exponent = (word[0]! >>> 23) & 0xff
  return Math.min(254, Math.max(0, exponent - emax))
}

/** 2^(code - 127), NaN for 255. */
export const decodeUe8m0 = (code: number): number => (code === 0xff ? Number.NaN : 2 ** (code - 127))
