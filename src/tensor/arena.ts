import type { Backend, Memory } from './backend.ts'
import { type DType, dtypes } from './dtype.ts'
import { sizeOf, Tensor } from './tensor.ts'

/**
 * Step memory: freed blocks are kept and handed out again to requests of the same rounded size. A step asks and frees in the
 * same order every time, so after the first step every address repeats and the backend is not asked again.
 */
export class Arena {
  readonly backend: Backend
  live = 0
  peak = 0
  readonly #spare = new Map<number, Memory[]>()

  constructor(backend: Backend) {
    this.backend = backend
  }

  alloc(dtype: DType, shape: readonly number[]): Tensor {
    const bytes = Math.max(64, Math.ceil((sizeOf(shape) * dtypes[dtype].bytes) / 64) * 64)
    const memory = this.#spare.get(bytes)?.pop() ?? this.backend.alloc(bytes)
    this.live += memory.bytes
    this.peak = Math.max(this.peak, this.live)
    return new Tensor(this.backend, memory, 0, dtype, shape)
  }

  free(memory: Memory): void {
    this.live -= memory.bytes
    const spare = this.#spare.get(memory.bytes)
    if (spare) spare.push(memory)
    else this.#spare.set(memory.bytes, [memory])
  }

  /** Gives every spare block back to the backend. */
  release(): void {
    for (const spare of this.#spare.values()) for (const memory of spare) this.backend.free(memory)
    this.#spare.clear()
  }
}
