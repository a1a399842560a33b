import { roundBf16 } from './bf16.ts'
import { philox } from './philox.ts'

/**
 * Random Hadamard transform of `size` consecutive columns, applied to both operands of a GEMM along the contraction, where it cancels:
 *
 *   z_j = sum_i h * s_i * (-1)^popcount(i & j) * x_i           h = fp32(1 / sqrt(size))
 *
 * Sylvester's order, signs on the input. The sum starts at 0 and runs over i in order; each product and each addition is one FP32 operation.
 * The result has the dtype of the input: rounded to BF16 if that was BF16, else left in FP32. Sizes with an exact h (4, 16, 64) match NVIDIA's
 * reference to the bit. Source: docs/numerics.md, "Random Hadamard transform".
 *
 * Signs are bit masks in 32-bit words: bit i of word i / 32 is set where s_i = -1.
 */
export type Signs = 'fixed' | 'fresh' | 'none'

/**
 * The sign vector of a whole run: the first 16 are TransformerEngine's (0xD7E8), the others the first block of Philox with key 0.
 * A transform of size n takes the first n.
 */
const FIXED = [0x6627d7e8, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]

/**
 * Four words of signs, of which a transform of size n uses the first n bits. `fresh` signs are Philox(key = seed; counter = (2^32 - 1, 2^32 - 1,
 * stream, step)), an address that no group of elements has; both operands of a GEMM must be given the same stream.
 */
export function signWords(signs: Signs, random: ArrayLike<number> = [0, 0, 0], stream = 0): Uint32Array {
  if (signs === 'none') return new Uint32Array(4)
  if (signs === 'fixed') return Uint32Array.from(FIXED)
  return philox([0xffffffff, 0xffffffff, stream, random[2]!], random, new Uint32Array(4))
}

/** The sizes that there are. */
export const hadamardSizes: readonly number[] = [4, 16, 32, 64, 128]

const parity = (x: number): number => {
  let bits = x ^ (x >> 4)
  bits ^= bits >> 2
  return (bits ^ (bits >> 1)) & 1
}

/** Rows j of h * H * diag(signs): entry [j * size + i] multiplies x_i. */
function matrixOf(size: number, signs: ArrayLike<number>): Float32Array {
  const matrix = new Float32Array(size * size)
  const h = Math.fround(1 / Math.sqrt(size))
  for (let j = 0; j < size; j++)
    for (let i = 0; i < size; i++) matrix[j * size + i] = parity(i & j) !== ((signs[i >> 5]! >>> (i & 31)) & 1) ? -h : h
  return matrix
}

function checkSize(cols: number, size: number): void {
  if (!hadamardSizes.includes(size))
    throw new RangeError(`Hadamard size ${size} is not one of ${hadamardSizes.join(', ')}`)
  if (cols % size !== 0) throw new RangeError(`${cols} columns are not a multiple of the Hadamard size ${size}`)
}

export interface RotateOptions {
  readonly size: number
  /** Words of signs: see `signWords`. */
  readonly signs: ArrayLike<number>
  /** Whether the values were BF16, so that the result is rounded to it. */
  readonly bf16?: boolean
}

/**
 * Rotates each row of `values`, [rows, cols], in groups of `size` columns.
 * @throws RangeError on a size that is not 4, 16, 32, 64 or 128, or does not divide `cols`
 */
export function rotate(
  values: Float32Array,
  rows: number,
  cols: number,
  { size, signs, bf16 = false }: RotateOptions,
  into: Float32Array = new Float32Array(values.length),
): Float32Array {
  checkSize(cols, size)
  const matrix = matrixOf(size, signs)
  const fround = Math.fround
  for (let start = 0; start < rows * cols; start += size)
    for (let j = 0; j < size; j++) {
      let sum = 0
      for (let i = 0; i < size; i++) sum = fround(sum + fround(matrix[j * size + i]! * values[start + i]!))
      into[start + j] = bf16 ? roundBf16(sum) : sum
    }
  return into
}

/** The inverse of `rotate`: the transform is orthogonal, so its transpose. Rounds to FP32 once for each sum. */
export function unrotate(
  values: Float32Array,
  rows: number,
  cols: number,
  { size, signs }: RotateOptions,
): Float32Array {
  checkSize(cols, size)
  const matrix = matrixOf(size, signs)
  const into = new Float32Array(values.length)
  for (let start = 0; start < rows * cols; start += size)
    for (let i = 0; i < size; i++) {
      let sum = 0
      for (let j = 0; j < size; j++) sum += matrix[j * size + i]! * values[start + j]!
      into[start + i] = sum
    }
  return into
}

/** [cols, rows] of `values`, [rows, cols]. */
export function transpose<T extends Float32Array | Uint8Array>(values: T, rows: number, cols: number): T {
  const into = new (values.constructor as new (size: number) => T)(values.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) into[c * rows + r] = values[r * cols + c]!
  return into
}
