/**
 * BF16 is the upper half of an FP32: 1 sign, 8 exponent, 7 mantissa bits.
 *
 * Rounding to nearest-even adds 0x7FFF plus the lowest kept bit and drops the lower half. A NaN keeps its upper half with
 * the quiet bit set, because adding could carry it into infinity. Overflow to infinity is correct behaviour.
 * Source: docs/numerics.md, "BF16".
 */

const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)

/** Bits of the BF16 nearest to `x` (ties to even). */
export function encodeBf16(x: number): number {
  float[0] = x
  const u = word[0]!
  if ((u & 0x7fffffff) > 0x7f800000) return ((u >>> 16) | 0x40) & 0xffff
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff
}

/** The value of BF16 bits. */
export function decodeBf16(bits: number): number {
  word[0] = bits << 16
  return float[0]!
}

/** `x` rounded to the nearest BF16 value. */
export const roundBf16 = (x: number): number => decodeBf16(encodeBf16(x))

/** Bits of every element of `values`. */
export function toBf16(values: Float32Array, into: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  for (let i = 0; i < values.length; i++) into[i] = encodeBf16(values[i]!)
  return into
}

/** Values of every element of `bits`. */
export function fromBf16(bits: Uint16Array, into: Float32Array = new Float32Array(bits.length)): Float32Array {
  const words = new Uint32Array(into.buffer, into.byteOffset, into.length)
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16
  return into
}
