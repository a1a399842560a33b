import { dimNames } from './bind.ts'
import type { Dims, Kernel } from './kernel.ts'
import { Tensor } from './tensor.ts'

/** A kernel's argument struct, filled anew at each call; its layout is that of the generated header (contracts.ts). */
export class ArgumentBlock {
  readonly slots: BigUint64Array
  readonly #kernel: Kernel
  readonly #names: string[]
  readonly #integers: Int32Array
  readonly #floats: Float32Array

  constructor(kernel: Kernel, slots: number) {
    this.slots = new BigUint64Array(slots)
    this.#kernel = kernel
    this.#names = dimNames(kernel.args)
    this.#integers = new Int32Array(this.slots.buffer)
    this.#floats = new Float32Array(this.slots.buffer)
  }

  fill(bindings: Readonly<Record<string, Tensor | number | undefined>>, dims: Dims): BigUint64Array {
    let slot = 0
    for (const name in this.#kernel.args) {
      const arg = this.#kernel.args[name]!
      const value = bindings[name]
      if (arg.kind === 'scalar') {
        if (arg.type === 'f32') this.#floats[2 * slot] = value as number
        else this.#integers[2 * slot] = value as number
        slot++
        continue
      }
      this.slots[slot++] = value instanceof Tensor ? value.memory.address + BigInt(value.offset) : 0n
      if (arg.dtype === 'float') this.slots[slot++] = value instanceof Tensor && value.dtype === 'bf16' ? 1n : 0n
    }
    for (const name of this.#names) this.slots[slot++] = BigInt(dims[name] ?? 0)
    return this.slots
  }
}
