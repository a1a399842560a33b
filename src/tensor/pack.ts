import { dimNames } from './bind.ts'
import type { Dims, Kernel } from './kernel.ts'
import type { Tensor } from './tensor.ts'

/** What fills the next slot, or two slots. */
type Kind = 'f32' | 'i32' | 'pointer' | 'pointer and dtype'

/** A kernel's argument struct, filled anew at each call; its layout is that of the generated header (contracts.ts). */
export class ArgumentBlock {
  readonly slots: BigUint64Array
  readonly #args: readonly { readonly name: string; readonly kind: Kind }[]
  readonly #dims: readonly string[]
  readonly #integers: Uint32Array
  readonly #floats: Float32Array

  constructor(kernel: Kernel, slots: number) {
    this.slots = new BigUint64Array(slots)
    this.#args = Object.entries(kernel.args).map(([name, arg]) => {
      if (arg.kind === 'scalar') return { name, kind: arg.type === 'f32' ? 'f32' : 'i32' }
      return { name, kind: arg.dtype === 'float' ? 'pointer and dtype' : 'pointer' }
    })
    this.#dims = dimNames(kernel.args)
    this.#integers = new Uint32Array(this.slots.buffer)
    this.#floats = new Float32Array(this.slots.buffer)
  }

  /** Of bindings that fit the contract (bind.ts). */
  fill(bindings: Readonly<Record<string, Tensor | number | undefined>>, dims: Dims): BigUint64Array {
    const { slots } = this
    const integers = this.#integers
    let slot = 0
    for (let i = 0; i < this.#args.length; i++) {
      const { name, kind } = this.#args[i]!
      const value = bindings[name]
      if (kind === 'f32') this.#floats[2 * slot++] = value as number
      else if (kind === 'i32') integers[2 * slot++] = value as number
      else {
        const tensor = value as Tensor | undefined
        slots[slot++] = tensor === undefined ? 0n : tensor.address
        if (kind === 'pointer and dtype') slots[slot++] = tensor?.dtype === 'bf16' ? 1n : 0n
      }
    }
    for (let i = 0; i < this.#dims.length; i++, slot++) {
      const size = dims[this.#dims[i]!] ?? 0
      integers[2 * slot] = size
      integers[2 * slot + 1] = size / 2 ** 32
    }
    return slots
  }
}
