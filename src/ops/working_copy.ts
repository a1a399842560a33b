import type { Tensor } from '../tensor/tensor.ts'
import { castTo } from './image.ts'
import { Store } from './store.ts'
import type { Tape } from './tape.ts'

/**
 * A weight as products read it that round their operands to BF16. Where activations are BF16 it is rounded once between two steps of the
 * optimizer and kept, if there is memory for that; else each product rounds it as it reads it.
 */
export class WorkingCopy {
  readonly #value: Tensor
  readonly #store: Store | undefined
  #rounded: Tensor | undefined

  /**
   * @param value f32, the weight.
   * @param kept whether 2 bytes a weight may outlive steps.
   */
  constructor(value: Tensor, kept: boolean) {
    this.#value = value
    this.#store = kept ? new Store(value.backend) : undefined
  }

  /** The weight rounded to BF16 if that is kept, else the weight itself. */
  operand(tape: Tape): Tensor {
    if (!this.#store || tape.activations !== 'bf16') return this.#value
    if (!this.#rounded) {
      this.#store.rewind()
      this.#rounded = castTo(tape.backend, this.#store.allocate, this.#value, 'bf16')
    }
    return this.#rounded
  }

  /** The weight is rounded anew at its next use. */
  weightChanged(): void {
    this.#rounded = undefined
  }
}
