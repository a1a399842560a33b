import { readsBf16 } from '../ops/working_copy.ts'
import type { Recipe } from '../recipes/recipe.ts'
import type { ResolvedRecipe } from '../recipes/resolve.ts'
import { persistentTensor, type Tensor } from '../tensor/tensor.ts'
import type { LinearShape } from './config.ts'
import { headName, type Parameters } from './parameters.ts'

/** Whether the products of the output layer round their operands to BF16. */
export const roundsHead = ({ head }: Recipe): boolean => (head ?? 'bf16') === 'bf16'

/**
 * Names of the weights that enter products in BF16 at some time of a run.
 * @param phases the recipe of each of `shapes` in every phase.
 */
export function readInBf16(
  recipe: Recipe,
  shapes: readonly LinearShape[],
  phases: readonly (readonly ResolvedRecipe[])[],
): ReadonlySet<string> {
  const linears = shapes.filter((_, i) => phases.some(resolved => readsBf16(resolved[i]!)))
  const names = linears.map(({ name }) => `backbone.${name}.weight`)
  return new Set(roundsHead(recipe) ? [...names, headName] : names)
}

/** Where a weight's copy lies, in groups of 16 elements: the first of the flat buffer of parameters, the first of the copies, and how many. */
interface Span {
  readonly from: number
  readonly to: number
  readonly groups: number
}

/** Memory for the BF16 copies of some weights, and where each has its place, so that AdamW can write them as it changes the weights. */
export class WorkingCopies {
  /** bf16: the copies, one after the other. */
  readonly rounded: Tensor
  readonly spans: readonly Span[]
  readonly #parts = new Map<string, Tensor>()

  constructor(parameters: Parameters, names: ReadonlySet<string>) {
    const copied = parameters.all.filter(({ name }) => names.has(name))
    let count = 0
    this.spans = copied.map(({ offset, padded }) => {
      const groups = Math.ceil(padded.value.size / 16)
      const to = count
      count += groups
      return { from: offset / 16, to, groups }
    })
    this.rounded = persistentTensor(parameters.value.backend, 'bf16', [16 * count])
    for (const [i, { name, padded }] of copied.entries())
      this.#parts.set(name, this.rounded.part(16 * this.spans[i]!.to, padded.value.shape))
  }

  /** The copy of a parameter with its padding, or undefined if it has none. */
  of(name: string): Tensor | undefined {
    return this.#parts.get(name)
  }
}
