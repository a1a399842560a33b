import type { Recipe } from '../recipes/recipe.ts'
import { persistentTensor, type Tensor } from '../tensor/tensor.ts'
import type { BlockMemory } from './blocks/block.ts'
import { blockKinds } from './blocks/index.ts'
import type { Model } from './model.ts'

/** Rows that go through the model together: powers of two, so that few shapes of step memory occur. */
const MOST_ROWS = 64

export interface DecoderOptions {
  /** Tokens back that attention sees at most; the state of Mamba-2 blocks has no such limit. */
  readonly capacity: number
  /** One whose activations are not quantised, or a later token would change earlier ones through the scale of a tensor. */
  readonly recipe: Recipe
}

/**
 * Reads one sequence token by token and says what may come next, at the cost of one token each: keys and values, inputs of convolutions and
 * states of Mamba-2 blocks are kept. The scores are those of a forward pass over the whole sequence, but for the order of sums.
 */
export class Decoder {
  readonly #model: Model
  readonly #options: DecoderOptions
  readonly #position: Tensor
  readonly #memory: BlockMemory[]
  readonly #tokens: Tensor
  #seen = 0

  constructor(model: Model, options: DecoderOptions) {
    const { backend, config } = model
    this.#model = model
    this.#options = options
    this.#position = persistentTensor(backend, 'i32', [1])
    this.#tokens = persistentTensor(backend, 'i32', [MOST_ROWS])
    this.#memory = [...config.pattern].map(kind => {
      const kept = blockKinds[kind]!.remembers?.(config, options.capacity) ?? {}
      const tensors = Object.entries(kept).map(([name, { dtype, shape }]) => [
        name,
        persistentTensor(backend, dtype, shape),
      ])
      return { position: this.#position, tensors: Object.fromEntries(tensors) as Record<string, Tensor> }
    })
  }

  /** Tokens read since the sequence began. */
  get seen(): number {
    return this.#seen
  }

  /** Begins another sequence. */
  reset(): void {
    this.#seen = 0
    for (const { tensors } of this.#memory) for (const tensor of Object.values(tensors)) tensor.zero()
  }

  /** Reads on; `tokens` must not be empty. Returns the scores of the token after the last, f32[vocab]. */
  read(tokens: readonly number[]): Float32Array {
    if (tokens.length === 0) throw new RangeError('a decoder reads at least one token')
    let scores: Float32Array | undefined
    for (let begin = 0, rows: number; begin < tokens.length; begin += rows) {
      rows = Math.min(MOST_ROWS, 2 ** Math.floor(Math.log2(tokens.length - begin)))
      const part = this.#tokens.part(0, [rows]).write(Int32Array.from(tokens.slice(begin, begin + rows)))
      this.#position.write(Int32Array.of(this.#seen))
      scores = this.#model.next(part, this.#memory, this.#options.recipe)
      this.#seen += rows
    }
    return scores!
  }

  /** Frees its memory. */
  close(): void {
    const { backend } = this.#model
    for (const tensor of [
      this.#position,
      this.#tokens,
      ...this.#memory.flatMap(({ tensors }) => Object.values(tensors)),
    ])
      backend.free(tensor.memory)
  }
}
