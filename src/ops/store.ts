import type { Backend, Memory } from '../tensor/backend.ts'
import { type DType, dtypes } from '../tensor/dtype.ts'
import { sizeOf, Tensor } from '../tensor/tensor.ts'

/** Memory that outlives steps, handed out again in the same order after `rewind`: for what is recomputed now and then. */
export class Store {
  readonly #backend: Backend
  readonly #memories: Memory[] = []
  #next = 0

  constructor(backend: Backend) {
    this.#backend = backend
  }

  readonly allocate = (dtype: DType, shape: readonly number[]): Tensor => {
    const bytes = Math.max(64, sizeOf(shape) * dtypes[dtype].bytes)
    let memory = this.#memories[this.#next]
    if (memory?.bytes !== bytes) {
      if (memory) this.#backend.free(memory)
      memory = this.#backend.alloc(bytes)
      this.#memories[this.#next] = memory
    }
    this.#next++
    return new Tensor(this.#backend, memory, 0, dtype, shape)
  }

  rewind(): void {
    this.#next = 0
  }
}
