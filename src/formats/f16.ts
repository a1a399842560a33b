/** IEEE binary16, for reading foreign files: 1 sign, 5 exponent (bias 15), 10 mantissa bits, with infinities and NaN. */

/** The value of binary16 bits. */
export function decodeF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 31
  const mantissa = bits & 1023
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent ? sign * (1 + mantissa / 1024) * 2 ** (exponent - 15) : sign * mantissa * 2 ** -24
}
