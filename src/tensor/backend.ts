import type { Activation, TypedArray } from './dtype.ts'
import type { Args, Bindings, Dims, Kernel } from './kernel.ts'
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
  /** Bytes held now, and how often `alloc` was called since the start. */
  readonly usage: { bytes: number; allocations: number }
  /** Memory of at least `bytes` bytes, aligned to 64. Contents are undefined. */
  alloc(bytes: number): Memory
  free(memory: Memory): void
  write(memory: Memory, offset: number, data: TypedArray): void
  /** Waits for pending work, then copies. */
  read(memory: Memory, offset: number, into: TypedArray): void
  zero(memory: Memory, offset: number, bytes: number): void
  copy(from: Memory, fromOffset: number, to: Memory, toOffset: number, bytes: number): void
  /** Throws before anything runs if the bindings do not fit the contract or the kernel is missing here. */
  run<A extends Args>(kernel: Kernel<A>, bindings: Bindings<A>): void
  /** Set to watch; kernels are then waited for one by one. */
  profiler?: Profiler | undefined
  /** Frees all memory. Nothing may be run or read afterwards. */
  close(): void
}
