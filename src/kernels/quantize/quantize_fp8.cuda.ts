import type { CudaKernel } from '../../tensor/cuda.ts'
import type { Layout } from './cases.ts'

/** Side of the tile that a block of threads quantises at once. */
const tile = 128
const threads = 256
const mostBlocks = 4096

/**
 * Launches of the FP8 kernels: `tiles` has one block of threads for each tile, of BF16 values to nearest without rotation; the kernel's own entry
 * is right for everything, and `rounded` for FP32 values that are read rounded.
 */
export const fp8Launches = (layout: Layout): CudaKernel => ({
  launches({ rows, cols }, { rounding, hadamard = 0, rounded = 0 }, { act }) {
    const tiles = Math.ceil(rows! / tile) * Math.ceil(cols! / tile)
    // Threads read eight columns at once and write 16 rows of a column.
    const fits = cols! % 8 === 0 && (layout === 'rows' || rows! % 16 === 0)
    const byTiles = rounding === 0 && hadamard === 0 && fits && (act === 'bf16' || rounded === 1)
    if (byTiles) return [{ entry: 'tiles', grid: tiles, block: threads }]
    const grid = Math.min(8 * tiles, mostBlocks)
    return [{ ...(rounded === 1 && act === 'f32' ? { entry: 'rounded' } : {}), grid, block: threads }]
  },
})
