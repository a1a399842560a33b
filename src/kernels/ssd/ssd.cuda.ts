import type { CudaKernel, Launch, Scalars } from '../../tensor/cuda.ts'
import type { Dims } from '../../tensor/kernel.ts'
import { TILE, TILE_THREADS, tileBytes, tiles } from '../shared/tiles.ts'

/** Rows of a chunk with BF16 activations, and values kept of them for each head. */
const CHUNK = 64
const NOTES = 5 * CHUNK

/** How ssd, or ssd_backward, runs on a GPU: other passes for FP32 than for BF16 activations. */
export function cuda(backward: boolean): CudaKernel {
  const by = { f32: cudaF32(backward), bf16: cudaBf16(backward) }
  return {
    // With BF16, states and factors are rounded where they enter a product: each term by up to 2^-9 of it, as what goes in and comes out is.
    tolerance: { f32: backward ? 2e-5 : 1e-5, bf16: 3e-3 },
    workspace: (dims, scalars, call) => by[call.act].workspace(dims, scalars),
    launches: (dims, scalars, call) => by[call.act].launches(dims, scalars),
  }
}

interface Passes {
  workspace(dims: Dims, scalars: Scalars): number
  launches(dims: Dims, scalars: Scalars): Launch[]
}

/** Launches of ssd_bf16.cu and ssd_backward_bf16.cu; ssd_bf16_cuda.h says what each does and how the workspace is laid out. */
function cudaBf16(backward: boolean): Passes {
  const threads = 128
  const matrix = (rows: number, cols: number) => rows * (cols + 8) * 2
  const sizesOf = ({ rows, heads, inner }: Dims, scalars: Scalars) => {
    const { sequence, state, groups } = scalars as Record<'sequence' | 'state' | 'groups', number>
    const sequences = rows! / sequence
    const chunks = sequences * Math.ceil(sequence / CHUNK)
    const headCols = 16 * Math.ceil(inner! / heads! / 16)
    const stateCols = 32 * Math.ceil(state / 32)
    return { sequences, chunks, groups, heads: heads!, headCols, stateCols, size: headCols * stateCols }
  }
  return {
    workspace(dims, scalars) {
      const { chunks, heads, groups, size } = sizesOf(dims, scalars)
      const gradients = backward ? 2 * chunks * (heads * size + groups * CHUNK * CHUNK) + 8 * 3 * chunks * heads : 0
      return 4 * chunks * heads * NOTES + 2 * chunks * heads * size + gradients
    },
    launches(dims, scalars) {
      const { sequences, chunks, groups, heads, headCols, stateCols, size } = sizesOf(dims, scalars)
      const notes = (arrays: number) => 4 * CHUNK * arrays
      const group = matrix(CHUNK, stateCols)
      const rows = matrix(CHUNK, headCols)
      const states = matrix(headCols, stateCols)
      const found = notes(9 + headCols / 8) + 4 * 16
      const slab = Math.min(CHUNK, headCols)
      const decays = { entry: 'chunk_decays', grid: [chunks, Math.ceil(heads / 4)], block: threads } as const
      const stateSlab = stateCols % 64 === 0 ? 64 : 32
      const passing = {
        grid: [(stateCols / stateSlab) * Math.ceil(headCols / CHUNK), heads, (backward ? 2 : 1) * sequences],
        block: 2 * slab,
        shared: 3 * (matrix(CHUNK, slab) + matrix(CHUNK, stateSlab) + notes(1) + 16),
      } as const
      if (!backward)
        return [
          decays,
          { entry: 'entering_states', ...passing },
          {
            entry: 'chunk_outputs',
            grid: [chunks, groups],
            block: threads,
            shared: 2 * (group + rows + states + notes(3)),
          },
        ]
      return [
        decays,
        { entry: 'chunk_states', ...passing },
        {
          entry: headCols > 48 ? 'wide_chunk_inputs' : 'chunk_inputs',
          grid: [chunks, groups],
          block: headCols > 48 ? 512 : 384,
          shared: 2 * group + matrix(10 * 16, 16) + found + (size > 3072 ? 1 : 2) * (2 * (rows + states) + notes(4)),
        },
        {
          entry: 'chunk_projections',
          grid: [chunks, groups, 2 * Math.ceil(stateCols / CHUNK)],
          block: threads,
          shared: 2 * (matrix(CHUNK, CHUNK) + rows + matrix(headCols, CHUNK) + notes(1)),
        },
        { entry: 'chunk_parameters', grid: heads, block: 32 },
      ]
    },
  }
}

/** Launches of ssd.cu and ssd_backward.cu; ssd_cuda.h says what each does and how the workspace is laid out. */
function cudaF32(backward: boolean): Passes {
  const sizesOf = ({ rows, heads, inner }: Dims, scalars: Scalars) => {
    const { sequence, state, groups } = scalars as Record<'sequence' | 'state' | 'groups', number>
    const chunk = Math.min(scalars.chunk!, sequence)
    const headDim = inner! / heads!
    const chunks = (rows! / sequence) * Math.ceil(sequence / chunk)
    const blocks = { chunk: tiles(chunk), head: tiles(headDim), state: tiles(state) }
    const triangle = (blocks.chunk * (blocks.chunk + 1)) / 2
    return { sequences: rows! / sequence, elements: headDim * state, groups, heads: heads!, chunks, blocks, triangle }
  }
  return {
    workspace(dims, scalars) {
      const { elements, groups, heads, chunks, blocks, triangle } = sizesOf(dims, scalars)
      const perRow = dims.rows! * heads
      const images = (backward ? 2 : 1) * chunks * (groups * triangle * TILE * TILE + heads * elements)
      const parts = backward ? 8 * 3 * chunks * heads + 4 * perRow * (1 + blocks.state + 3 * blocks.head) : 0
      return 4 * (3 * perRow + images) + parts
    },
    launches(dims, scalars) {
      const { sequences, elements, groups, heads, chunks, blocks, triangle } = sizesOf(dims, scalars)
      const block = TILE_THREADS
      const shared = 3 * tileBytes(TILE)
      const perState = { grid: [Math.ceil(elements / 256), heads, sequences], block: 256 } as const
      const sums = { grid: [chunks, heads, blocks.head * blocks.state], block, shared } as const
      const columns = { grid: [chunks, heads, blocks.chunk * blocks.head], block, shared } as const
      const ofState = { grid: [chunks, groups, blocks.chunk * blocks.state], block, shared } as const
      const common = [
        { entry: 'decays', grid: Math.ceil((chunks * heads) / block), block },
        { entry: 'scores', grid: [chunks, groups, triangle], block, shared },
        { entry: 'states', ...sums },
        { entry: 'pass', ...perState },
      ] as const
      if (!backward) return [...common, { entry: 'scan', ...columns }]
      return [
        ...common,
        { entry: 'dstates', ...sums },
        { entry: 'pass_back', ...perState },
        { entry: 'weights', grid: [chunks, groups, blocks.chunk], block, shared },
        { entry: 'dc', ...ofState },
        { entry: 'db', ...ofState },
        { entry: 'dx', ...columns },
        { entry: 'finish', grid: [chunks, heads], block },
        { entry: 'parameters', grid: heads, block: 32 },
      ]
    },
  }
}
