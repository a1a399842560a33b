import { packs } from '../kernels/pack/pack.ts'
import type { Kernel } from '../tensor/kernel.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Image } from './image.ts'
import { Store } from './store.ts'

/** Formats whose products read panels. */
const kernels: Readonly<Record<string, Kernel>> = packs as never

/**
 * The image of a weight unpacked as products of the backend read their second operand (src/kernels/pack/pack.ts), kept from its first use until
 * the image changes. 4-bit images take 1.25 bytes a value so, in NVFP4, beside 0.5625 for the image itself.
 */
export class Panels {
  readonly #kept: boolean
  #store: Store | undefined
  #packed: Tensor | undefined

  /** @param kept whether there is memory for it. */
  constructor(kept: boolean) {
    this.#kept = kept
  }

  /** Of `image`, which is the same until `drop`; undefined where products read codes. */
  of(image: Image): Tensor | undefined {
    const { backend, shape } = image.scales
    const columns = backend.panelColumns
    const kernel = kernels[image.format]
    if (!this.#kept || columns === undefined || !kernel) return undefined
    if (!this.#packed) {
      this.#store ??= new Store(backend)
      this.#store.rewind()
      const blocks = shape[1]!
      const bytes = (2 * image.codes.shape[1]!) / blocks + 4
      const panels = [Math.ceil(image.rows / columns), blocks, columns, bytes]
      this.#packed = this.#store.allocate('u8', panels)
      backend.run(kernel, { packed: this.#packed, codes: image.codes, scales: image.scales } as never)
    }
    return this.#packed
  }

  /** The image has changed. */
  drop(): void {
    this.#packed = undefined
  }
}
