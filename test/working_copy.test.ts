import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Kernel } from '../src/tensor/kernel.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

/** Three steps of two micro-batches, with validation in between: what they compute, and how often a weight of `size` elements is rounded. */
async function train(size: number, ...overrides: string[]) {
  const trainer = await openTrainer(
    smallConfig(folder, 'recipe=bf16', 'model.pattern=-*', 'model.ffn=96', ...overrides),
  )
  const { backend, parameters } = trainer.model
  const { run } = backend
  let rounded = 0
  backend.run = ((kernel: Kernel, bindings: Record<string, Tensor>) => {
    const { x, y } = bindings
    if (kernel.name === 'cast' && x!.dtype === 'f32' && y!.dtype === 'bf16' && x!.size === size) rounded++
    run.call(backend, kernel, bindings as never)
  }) as unknown as typeof run
  const losses: number[] = []
  for (let step = 0; step < 3; step++) losses.push(trainer.step(step).loss, trainer.validate().loss)
  const weights = parameters.value.floats()
  backend.close()
  return { rounded, results: { losses, weights } }
}

describe('the BF16 copy of a weight', () => {
  const linear = 96 * 32
  const head = 272 * 32

  it('is made once between two steps, with the numbers of rounding in each product', async () => {
    for (const size of [linear, head]) {
      const kept = await train(size, 'model.activations=bf16')
      // Step and validation each begin with weights that may be new; up_proj and down_proj are of one size.
      assert.equal(kept.rounded, size === head ? 6 : 12)
      const without = await train(size, 'model.activations=bf16', 'model.recompute=block')
      // The head rounds its weight in each of two micro-batches and of two batches of validation, linear layers within their products.
      assert.equal(without.rounded, size === head ? 12 : 0)
      assert.deepEqual(kept.results, without.results)
    }
  })

  it('is not made of activations in FP32', async () => {
    for (const size of [linear, head]) assert.equal((await train(size)).rounded, 0)
  })
})
