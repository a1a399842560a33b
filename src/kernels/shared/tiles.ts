import type { Activation } from '../../tensor/dtype.ts'

/** Rows of the blocks in which shared memory holds matrices, and threads that work on them (tile_cuda.h). */
export const TILE = 64
export const TILE_THREADS = 128

/** Blocks of TILE that cover `n`. */
export const tiles = (n: number): number => Math.ceil(n / TILE)

/** Summands in which an FP32 value enters a product with operands of this dtype. */
export const exactParts: Readonly<Record<Activation, number>> = { f32: 1, bf16: 2 }

/** Bytes of shared memory of a matrix of TILE rows of `cols` elements, held in `parts` summands. */
export const tileBytes = (act: Activation, cols: number, parts = 1): number =>
  TILE * parts * (act === 'bf16' ? 2 * (cols + 8) : 4 * (cols + 1))
