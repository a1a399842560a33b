import type { CudaKernel } from '../../tensor/cuda.ts'

/** Elements that a block of threads takes at least, and how many blocks there are at most where each does little beside its pieces. */
const share = 2048
const manyBlocks = 4096

/**
 * At most `most` blocks of 256 threads, each of which takes piece after piece of a BF16 matrix [rows, cols] and first prepares what they all need:
 * one to two times as many as an H200 holds at once. Other dtypes and rotations than by 16 keep many blocks.
 */
export const fewBlocks = (most: number): CudaKernel => ({
  anyBlocks: true,
  launches({ rows, cols }, { hadamard = 0 }, { act }) {
    const few = act === 'bf16' && (hadamard === 0 || hadamard === 16)
    return [{ grid: Math.min(Math.ceil((rows! * cols!) / share), few ? most : manyBlocks), block: 256 }]
  },
})
