import type { Activation, DType } from './dtype.ts'
import type { Dims } from './kernel.ts'

/**
 * How a kernel runs on an NVIDIA GPU: a list of launches of entry points in its .cu file and of matrix products by cuBLASLt, one after
 * the other on one stream. What the list says may follow from the call's dimensions, scalars and dtypes, from the device and from which
 * products cuBLASLt offers on it; never from values in memory: a captured step can then be replayed.
 *
 * Every entry point takes the argument struct of the contract (contracts.ts) by value and then a pointer to the call's workspace; a kernel
 * exports it with one of the macros of src/kernels/shared/cuda.h. A kernel without `cuda` has one entry point that is right for any
 * one-dimensional grid and block; the backend then chooses them.
 */
export interface CudaKernel {
  /** Bytes of device memory that the launches share; undefined contents, 256-byte aligned. Default: none. */
  workspace?(dims: Dims, scalars: Scalars, call: CudaCall): number
  launches(dims: Dims, scalars: Scalars, call: CudaCall): readonly (Launch | Product)[]
  /** Whether its launches are one, of an entry point that is right for any number of blocks of 256 threads, as it is where nothing is named. */
  readonly anyBlocks?: true
  /** Whether it may launch as many blocks as the device has multiprocessors, each of which takes task after task. */
  readonly persistent?: true
  /** Replaces the contract's tolerance, where sums are in an order that the reference's is not; may differ with the dtype of activations. */
  readonly tolerance?: number | Readonly<Record<Activation, number>>
}

export type Scalars = Readonly<Record<string, number>>

/** What else is known of a call. */
export interface CudaCall {
  readonly act: Activation
  /** Dtype of every tensor argument; undefined where an optional one is left out. */
  readonly dtypes: Readonly<Record<string, DType | undefined>>
  /** The GPU; absent: what is launched must run on every one. `capability` is 90 for compute capability 9.0. */
  readonly device?: { readonly capability: number; readonly multiprocessors: number }
  /** Whether cuBLASLt's heuristic names an algorithm for a product on this device; absent: it has those of f32 and bf16 alone. */
  offers?(product: Product): boolean
}

export type Extent = number | readonly [number, number?, number?]

export interface Launch {
  /** Which entry point: '' or absent is the kernel's own, 'reduce' that of EXPORT_CUDA_ENTRY(name, reduce, threads). */
  readonly entry?: string
  /** Blocks; a launch with an extent of 0 is left out. */
  readonly grid: Extent
  /** Threads of a block. */
  readonly block: Extent
  /** Bytes of dynamic shared memory; the backend raises the function's limit to it. */
  readonly shared?: number
}

/** Where a matrix lies: an argument of the call, or bytes from the start of the workspace. */
export interface Place {
  readonly at: string | number
  readonly dtype: 'f32' | 'bf16'
}

/**
 * How scales of an operand of codes lie in memory, as cuBLASLt wants them for a matrix of `rows` along the contraction:
 *
 *   tensor      one f32
 *   rows128     f32 [ceil(k / 128), rows]: of each 128 elements of a row
 *   tiles128    f32 [ceil(rows / 128), ceil(k / 128) rounded up to a multiple of 4]: of square tiles
 *   rows16      E4M3 of each 16 elements of a row, swizzled (src/formats/swizzle.ts)
 */
export type ScaleLayout = 'tensor' | 'rows128' | 'tiles128' | 'rows16'

/** An operand that the tensor cores read as codes. */
export interface CodedPlace {
  readonly at: string | number
  readonly dtype: 'e4m3' | 'e2m1'
  readonly scales: { readonly at: string | number; readonly layout: ScaleLayout }
}

/**
 * c[m,n] = alpha * sum_k a * b, plus c if `accumulate`; sums in FP32, f32 operands multiplied as FP32 and not as TF32. Both operands are
 * of one dtype. `batch` products follow one another without gaps.
 */
export interface Product {
  readonly m: number
  readonly n: number
  readonly k: number
  /** a is [m,k], or [k,m] if transposed. */
  readonly a: (Place | CodedPlace) & { readonly transposed: boolean }
  /** b is [k,n], or [n,k] if transposed. */
  readonly b: (Place | CodedPlace) & { readonly transposed: boolean }
  readonly c: Place
  /** Bytes from the start of the workspace to an f32 that a launch before wrote; absent: 1. */
  readonly alpha?: number
  readonly accumulate: boolean
  readonly batch?: number
}
