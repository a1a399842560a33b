import type { Activation } from '../../tensor/dtype.ts'

/** Rows of the blocks in which shared memory holds matrices, and threads that work on them (tile_cuda.h). */
export const TILE = 64
export const TILE_THREADS = 128

/** Blocks of TILE that cover `n`. */
export const tiles = (n: number): number => Math.ceil(n / TILE)

/** Bytes of shared memory of a matrix of TILE rows of `cols` elements; with BF16 activations each may be a sum of several BF16. */
export const tileBytes = (act: Activation, cols: number, summands = 1): number =>
  TILE * (act === 'bf16' ? 2 * (cols + 8) * summands : 4 * (cols + 1))
