import type { LinearMemory } from '../ops/linear.ts'
import type { Parameter } from '../ops/tape.ts'
import type { Backend } from '../tensor/backend.ts'
import { persistentTensor, sizeOf, type Tensor } from '../tensor/tensor.ts'
import type { ParameterSpec } from './blocks/block.ts'
import { blockKinds } from './blocks/index.ts'
import type { LinearShape, ModelConfig } from './config.ts'
import { drawPiece, normal, ones, type Piece, piecesOf } from './initialise.ts'

/** The output layer's weight. */
export const headName = 'lm_head.weight'

export interface BlockSpec {
  readonly kind: string
  /** `layers.3`: prefix of the names of its linear layers; parameters have `backbone.` before it. */
  readonly name: string
  readonly parameters: readonly ParameterSpec[]
}

/**
 * Every parameter of a model in the order of a checkpoint, with Hugging Face's names (docs/numerics.md, "HF config and
 * tensors") but one fused `mixer.qkv_proj.weight`.
 * @throws Error naming a character of the pattern that no block has.
 */
export function parameterSpecs(config: ModelConfig): { blocks: BlockSpec[]; all: ParameterSpec[] } {
  const table = (name: string): ParameterSpec => ({
    name,
    shape: [config.vocab, config.hidden],
    initialise: normal(config.init_std),
    decay: true,
  })
  const norm = (name: string): ParameterSpec => ({ name, shape: [config.hidden], initialise: ones, decay: false })
  const blocks = [...config.pattern].map((kind, i): BlockSpec => {
    const mixer = blockKinds[kind]
    if (!mixer)
      throw new Error(`model.pattern has "${kind}" at ${i}; its blocks are ${Object.keys(blockKinds).join(', ')}`)
    const name = `layers.${i}`
    const inBlock = (spec: ParameterSpec) => ({ ...spec, name: `backbone.${name}.${spec.name}` })
    return { kind, name, parameters: [norm('norm.weight'), ...mixer.parameters(config)].map(inBlock) }
  })
  return {
    blocks,
    all: [
      table('backbone.embeddings.weight'),
      ...blocks.flatMap(({ parameters }) => parameters),
      norm('backbone.norm_f.weight'),
      { ...table(headName), linear: true },
    ],
  }
}

/** Name of a linear layer in rules, from that of its weight. */
const linearName = (weight: string): string => weight.replace(/^backbone\.|\.weight$/g, '')

/** The linear layers that a recipe rules, in order. */
export const linearShapes = ({ blocks }: { blocks: readonly BlockSpec[] }): LinearShape[] =>
  blocks.flatMap(({ parameters }, block) =>
    parameters
      .filter(({ linear }) => linear)
      .map(({ name, shape, padded = false }) => ({
        name: linearName(name),
        block,
        rows: shape[0]!,
        cols: shape[1]!,
        padded,
      })),
  )

/** A parameter and its place in the flat buffers, in elements. */
export interface ModelParameter extends Parameter {
  readonly offset: number
  readonly decay: boolean
  /** Whether the first micro-batch of a step overwrites the gradient; else all add to it, and it is zero before. */
  readonly overwritten: boolean
  /** `value` and `gradient` with rows of zeros after their own where a linear layer may be padded. */
  readonly padded: LinearMemory
}

/** Elements to which every parameter is padded in the flat buffers: 64 bytes, a cache line and a widest vector. */
const ALIGNMENT = 16

/** Rows to which a padded weight is stored: enough for the longest block or rotation of any recipe. */
const PADDED_ROWS = 128

const storedShape = ({ shape, padded }: ParameterSpec): readonly number[] =>
  padded ? [Math.ceil(shape[0]! / PADDED_ROWS) * PADDED_ROWS, ...shape.slice(1)] : shape

/** Weights and gradients, each in one flat FP32 buffer; padding stays zero. */
export class Parameters {
  readonly all: readonly ModelParameter[]
  /** f32[size], padding included. */
  readonly value: Tensor
  readonly gradient: Tensor
  readonly #byName: ReadonlyMap<string, ModelParameter>

  /** Initial weights are a function of `seed` and the parameters' names; without a seed they are zero, for whoever writes others. */
  constructor(backend: Backend, specs: readonly ParameterSpec[], seed: number | undefined) {
    const offsets: number[] = []
    let size = 0
    for (const spec of specs) {
      offsets.push(size)
      size += Math.ceil(sizeOf(storedShape(spec)) / ALIGNMENT) * ALIGNMENT
    }
    this.value = persistentTensor(backend, 'f32', [size])
    this.gradient = persistentTensor(backend, 'f32', [size])
    this.all = specs.map((spec, i) => {
      const { name, shape, decay, linear: overwritten = false } = spec
      const offset = offsets[i]!
      const stored = storedShape(spec)
      const padded = { value: this.value.part(offset, stored), gradient: this.gradient.part(offset, stored) }
      const value = this.value.part(offset, shape)
      return { name, shape, offset, decay, overwritten, value, gradient: this.gradient.part(offset, shape), padded }
    })
    this.#byName = new Map(this.all.map(parameter => [parameter.name, parameter]))
    if (seed === undefined) return
    for (const piece of piecesOf(specs)) this.write(piece, drawPiece(specs, seed, piece))
  }

  /** Sets the values of a range. */
  write({ index, start, size }: Piece, values: Float32Array): void {
    this.all[index]!.value.part(start, [size]).write(values)
  }

  /** Elements of all parameters, without padding. */
  get count(): number {
    return this.all.reduce((sum, { value }) => sum + value.size, 0)
  }

  /** @throws Error if there is none of that name. */
  named(name: string): ModelParameter {
    const parameter = this.#byName.get(name)
    if (!parameter) throw new Error(`the model has no parameter ${name}`)
    return parameter
  }
}
