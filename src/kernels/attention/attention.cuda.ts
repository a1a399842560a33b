import type { CudaCall, Launch, Scalars } from '../../tensor/cuda.ts'
import type { Dims } from '../../tensor/kernel.ts'
import { TILE, TILE_THREADS, tileBytes, tiles } from '../shared/tiles.ts'

/** The launches of attention.cu. */

/** Columns of the matrices in shared memory that hold heads of `dim` elements. */
function widthOf(dim: number): 64 | 128 {
  if (dim > 128) throw new Error(`attention on cuda takes heads of at most 128 elements, got ${dim}`)
  return dim > 64 ? 128 : 64
}

/**
 * A launch with a block of threads for every 64 rows of every sequence and one of `heads`. In shared memory it keeps `bf16Matrices` of 64
 * rows of a head; with FP32, `fp32Matrices` and if `square` one of 64 x 64.
 */
function launch(
  entry: string,
  heads: number,
  { bf16Matrices, fp32Matrices, square }: { bf16Matrices: number; fp32Matrices: number; square: boolean },
  { sequence }: Scalars,
  { rows, dim }: Dims,
  { act }: CudaCall,
): Launch {
  const width = widthOf(dim!)
  return {
    entry: `${entry}${width}`,
    grid: [tiles(sequence!), heads, rows! / sequence!],
    block: TILE_THREADS,
    shared:
      act === 'bf16'
        ? bf16Matrices * TILE * width * 2 + notesBytes
        : fp32Matrices * tileBytes(width) + (square ? tileBytes(TILE) : 0),
  }
}

/** What attention_bf16_cuda.h keeps beside matrices. */
const notesBytes = 2048
const forwardMemory = { bf16Matrices: 5, fp32Matrices: 3, square: false }
const backwardMemory = { bf16Matrices: 6, fp32Matrices: 4, square: true }

/** Whether the kernels for Hopper serve a call: they copy 16 bytes at a time. */
const onHopper = ({ dim }: Dims, { act, device }: CudaCall): boolean =>
  act === 'bf16' && device?.capability === 90 && dim! % 8 === 0

const WARPGROUP = 128
/** Rows of a tile in the kernels for Hopper, 64 for each of two warpgroups beside the one that copies. */
const HOPPER_TILE = 128
const barrierBytes = 256

/**
 * A launch of attention_hopper_cuda.h or attention_hopper_backward_cuda.h: a block of threads for every multiprocessor, which takes tiles of rows of every
 * sequence and one of `heads`. In shared memory it keeps rows of heads, bytes of notes, and barriers; see `memory` of those.
 */
function persistent(
  entry: string,
  heads: number,
  memory: (width: 64 | 128) => { rows: number; notes: number },
  { sequence }: Scalars,
  dims: Dims,
  { device }: CudaCall,
): Launch {
  const width = widthOf(dims.dim!)
  const { rows, notes } = memory(width)
  return {
    entry: `${entry}${width}`,
    grid: Math.min(device!.multiprocessors, Math.ceil(sequence! / HOPPER_TILE) * heads * (dims.rows! / sequence!)),
    block: 3 * WARPGROUP,
    shared: rows * width * 2 + notes + barrierBytes,
  }
}

/** What is kept of a tile of queries: where it is, and words of each. */
const tileNotes = (words: number): number => 32 + 4 * words * HOPPER_TILE
/** Rows of the blocks that pass in the backward pass. */
const passing = (width: 64 | 128): number => (width === 128 ? 64 : 128)

/** `ForwardMemory`: tiles of queries twice, blocks of 128 keys and values twice. */
const hopperForward = () => ({ rows: 2 * HOPPER_TILE + 4 * 128, notes: 2 * tileNotes(1) })
/** `KeyMemory`: keys and values of a tile, blocks of queries and gradients three times. */
const hopperKeys = (width: 64 | 128) => ({
  rows: 2 * HOPPER_TILE + 6 * passing(width),
  notes: 3 * (16 + 3 * 4 * passing(width)),
})
/** `QueryMemory`: queries and gradients of a tile twice, blocks of keys three times and of values twice. */
const hopperQueries = (width: 64 | 128) => ({ rows: 4 * HOPPER_TILE + 5 * passing(width), notes: 2 * tileNotes(3) })

export const forwardLaunches = (dims: Dims, scalars: Scalars, call: CudaCall): Launch[] => {
  const heads = dims.heads!
  if (onHopper(dims, call)) return [persistent('hopper', heads, hopperForward, scalars, dims, call)]
  return [launch('forward', heads, forwardMemory, scalars, dims, call)]
}

export const backwardLaunches = (dims: Dims, scalars: Scalars, call: CudaCall): Launch[] => {
  const heads = dims.heads!
  const kvHeads = (dims.columns! - heads) / 2
  const dots = { entry: 'dots', grid: Math.ceil((dims.rows! * heads) / 16), block: 256 }
  if (onHopper(dims, call))
    return [
      dots,
      persistent('hopper_keys', kvHeads, hopperKeys, scalars, dims, call),
      persistent('hopper_queries', heads, hopperQueries, scalars, dims, call),
    ]
  return [
    dots,
    launch('keys', kvHeads, backwardMemory, scalars, dims, call),
    launch('queries', heads, backwardMemory, scalars, dims, call),
  ]
}
