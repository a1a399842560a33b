import { fromBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { codeAt, type QuantizeOptions, quantizeMatrix } from '../src/formats/quantize.ts'

/** Inputs and hashes of docs/numerics.md, "Check values". */

const fmix32 = (x: number): number => {
  let h = x >>> 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** A BF16 matrix: sign, one of eight exponents and mantissa from a hash of the row-major index. */
export function generate(rows: number, cols: number, seed: number): Float32Array {
  const bits = Uint16Array.from({ length: rows * cols }, (_, i) => {
    const h = fmix32(Math.imul(i, 2654435761) + seed)
    return ((h >>> 31) << 15) | ((120 + ((h >>> 28) & 7)) << 7) | ((h >>> 16) & 0x7f)
  })
  return fromBf16(bits)
}

/** FNV-1a 32 over the bytes of an array, in hexadecimal. */
export function fnv(array: ArrayBufferView): string {
  let hash = 0x811c9dc5
  for (const byte of new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    hash = Math.imul(hash ^ byte, 0x01000193)
  return (hash >>> 0).toString(16).padStart(8, '0')
}

/** IEEE bits of an FP32, in hexadecimal. */
export const hex = (x: number): string =>
  new Uint32Array(Float32Array.of(x).buffer)[0]!.toString(16).padStart(8, '0').toUpperCase()

/** The FP32 with these bits. */
export const fromHex = (bits: number): number => new Float32Array(Uint32Array.of(bits).buffer)[0]!

/** Next FP32 towards positive infinity, of a positive value. */
export const nextUp = (x: number): number => fromHex(new Uint32Array(Float32Array.of(x).buffer)[0]! + 1)
export const nextDown = (x: number): number => fromHex(new Uint32Array(Float32Array.of(x).buffer)[0]! - 1)

/** Quantises to NVFP4. */
export const nvfp4 = (
  values: Float32Array | number[],
  rows: number,
  cols: number,
  more: Partial<QuantizeOptions> = {},
) => quantizeMatrix(Float32Array.from(values), rows, cols, { format: 'nvfp4', ...more })

/** The given values, then zeros up to `size`. */
export const padded = (values: number[], size = 16): number[] => [...values, ...new Array(size - values.length).fill(0)]
/** The codes of 16 elements. */
export const block = (codes: Uint8Array, from = 0): number[] =>
  Array.from({ length: 16 }, (_, i) => codeAt(codes, 4, from + i))
/** Standard normal values. */
export const normals = (size: number, seed = 1): Float32Array => {
  const random = new Stream(seed, 0)
  return Float32Array.from({ length: size }, () => random.normal())
}
