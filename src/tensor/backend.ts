import type { Activation, TypedArray } from './dtype.ts'
import type { Args, Bindings, Dims, Kernel } from './kernel.ts'
import type { Routes } from './routes.ts'
import type { Tensor } from './tensor.ts'

/** A block of a backend's memory; `address` is 0 where memory has no address (the reference backend). */
export interface Memory {
  readonly bytes: number
  readonly address: bigint
}

export type Arguments = Readonly<Record<string, Tensor | number | undefined>>

/** Told of every kernel that ran: how long it took in seconds, its dimensions and what it was given. */
export type Profiler = (kernel: Kernel, seconds: number, dims: Dims, given: Arguments) => void

/** Runs kernels and owns memory. It knows no kernel by name. */
export interface Backend {
  readonly name: string
  /** What the run's config records of this backend: instruction level, threads, device, versions. */
  readonly description: Readonly<Record<string, string | number>>
  /** Dtype of activations where the config does not say. */
  readonly activations: Activation
  /** What a temporary of an op should take where it can be made in parts: what caches hold, or on a GPU what fills it. */
  readonly temporaryBytes: number
  /** Columns of the panels that products of 4-bit images read (src/kernels/pack/pack.ts); absent: they read codes. */
  readonly panelColumns?: number | undefined
  /** Bytes held now, and how often `alloc` was called since the start. */
  readonly usage: { bytes: number; allocations: number }
  /** Memory of at least `bytes` bytes, aligned to 64. Contents are undefined. */
  alloc(bytes: number): Memory
  free(memory: Memory): void
  write(memory: Memory, offset: number, data: TypedArray): void
  /** Waits for pending work, then copies. */
  read(memory: Memory, offset: number, into: TypedArray): void
  /**
   * Begins to copy what pending work leaves there; the function that it returns waits for the copy and fills `into`. Absent where kernels are
   * done when `run` returns.
   */
  readLater?(memory: Memory, offset: number, into: TypedArray): () => void
  zero(memory: Memory, offset: number, bytes: number): void
  copy(from: Memory, fromOffset: number, to: Memory, toOffset: number, bytes: number): void
  /** Throws before anything runs if the bindings do not fit the contract or the kernel is missing here. */
  run<A extends Args>(kernel: Kernel<A>, bindings: Bindings<A>): void
  /**
   * Runs `body`, or replays what it did under this key: from call to call it makes the same calls of `run`, `zero` and `copy` and nothing else
   * of the backend, and leaves no other trace. Values that change are written to the memory that it reads before. Absent where nothing would be won.
   */
  capture?(key: string, body: () => void): void
  /** What served the products since this was last asked; absent where there is one way only. */
  takeRoutes?(): Routes
  /** Set to watch; kernels are then waited for one by one. */
  profiler?: Profiler | undefined
  /** Frees all memory. Nothing may be run or read afterwards. */
  close(): void
}
