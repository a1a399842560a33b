import { roundBf16 } from '../formats/bf16.ts'
import { isQuantized } from '../recipes/resolve.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Model } from './model.ts'
import { headName } from './parameters.ts'

/**
 * Weights as a deployed model would hold them, in place of the FP32 master weights, so that a recipe without rounding computes with them and
 * with activations that are not quantised:
 *
 *   f32     the master weights
 *   bf16    matrices, embedding and head rounded to BF16
 *   codes   a linear layer's weight as its 4-bit or 8-bit codes and scales say, where the run's recipe quantises it in fprop; the rest in BF16
 *
 * Norms, convolutions and the state-space parameters stay in FP32.
 */
export const weightKinds = ['bf16', 'codes', 'f32'] as const
export type WeightKind = (typeof weightKinds)[number]

function roundInPlace(tensor: Tensor): void {
  tensor.write(tensor.floats().map(roundBf16))
}

/** Changes the weights of `model`, which must not be trained or saved afterwards. Returns how many linear layers compute with codes. */
export function useWeights(model: Model, kind: WeightKind): number {
  if (kind === 'f32') return 0
  let coded = 0
  for (const linear of model.linears) {
    if (kind === 'codes' && linear.recipe.forward.w && isQuantized(linear.recipe.fprop.b)) {
      model.tape.scope(() => {
        linear.value.write(linear.forwardValues(model.tape).floats())
      })
      coded++
    } else roundInPlace(linear.weight.value)
  }
  for (const name of ['backbone.embeddings.weight', headName]) roundInPlace(model.parameters.named(name).value)
  model.weightsChanged()
  return coded
}
