import { cast } from '../kernels/cast/cast.ts'
import type { ResolvedRecipe } from '../recipes/resolve.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** Whether a product reads the weight in BF16, unquantised. */
export const readsBf16 = ({ fprop, dgrad }: ResolvedRecipe): boolean => fprop.b === 'bf16' || dgrad.b === 'bf16'

/**
 * A weight as products read it that round their operands to BF16: a copy that is kept rounded, if there is memory for it; else each product
 * rounds the weight as it reads it. The optimizer brings the copy up to date with the weight.
 */
export class WorkingCopy {
  readonly #value: Tensor
  readonly #rounded: Tensor | undefined
  #current = false

  /**
   * @param value f32, the weight.
   * @param rounded bf16, of its shape: memory of the copy, where activations are BF16.
   */
  constructor(value: Tensor, rounded: Tensor | undefined) {
    this.#value = value
    this.#rounded = rounded
  }

  /** The copy if there is one, else the weight itself. */
  operand(): Tensor {
    this.refresh()
    return this.#rounded ?? this.#value
  }

  /** Rounds the weight if it has changed otherwise than by the optimizer. */
  refresh(): void {
    if (this.#current || !this.#rounded) return
    const n = [this.#value.size]
    this.#value.backend.run(cast, { y: this.#rounded.view(n), x: this.#value.view(n) })
    this.#current = true
  }

  weightChanged(): void {
    this.#current = false
  }
}
