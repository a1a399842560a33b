/** Rows of the blocks in which shared memory holds matrices, and threads that work on them (tile_cuda.h). */
export const TILE = 64
export const TILE_THREADS = 128

/** Blocks of TILE that cover `n`. */
export const tiles = (n: number): number => Math.ceil(n / TILE)

/** Bytes of shared memory of a matrix of TILE rows of `cols` FP32 elements. */
export const tileBytes = (cols: number): number => TILE * 4 * (cols + 1)
