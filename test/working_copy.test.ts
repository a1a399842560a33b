import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { testFolder } from './training.ts'
import { watchedSteps } from './watched_steps.ts'

const folder = testFolder()

/** Three steps of two micro-batches, with validation in between: what they compute, and how often a weight of `size` elements is rounded. Before step `changed`
 * weights are said to have changed. */
async function train(size: number, changed: number | undefined, ...overrides: string[]) {
  let rounded = 0
  const results = await watchedSteps(
    folder,
    ['recipe=bf16', 'model.ffn=96', ...overrides],
    ({ name }, { x, y }) => {
      if (name === 'cast' && x!.dtype === 'f32' && y!.dtype === 'bf16' && x!.size === size) rounded++
    },
    (step, { model }) => {
      if (step === changed) model.weightsChanged()
    },
  )
  return { rounded, results }
}

describe('the BF16 copy of a weight', () => {
  const linear = 96 * 32
  const head = 272 * 32

  it('is made once, then written by the optimizer, with the numbers of rounding in each product', async () => {
    for (const size of [linear, head]) {
      const kept = await train(size, undefined, 'model.activations=bf16')
      assert.equal(kept.rounded, 0, 'the optimizer writes it')
      const again = await train(size, 1, 'model.activations=bf16')
      // up_proj and down_proj are of one size.
      assert.equal(again.rounded, size === head ? 1 : 2)
      assert.deepEqual(kept.results, again.results)
      const without = await train(size, undefined, 'model.activations=bf16', 'model.recompute=block')
      // The head rounds its weight in each of two micro-batches and of two batches of validation, linear layers within their products.
      assert.equal(without.rounded, size === head ? 12 : 0)
      assert.deepEqual(kept.results, without.results)
    }
  })

  it('is not made of activations in FP32', async () => {
    for (const size of [linear, head]) assert.equal((await train(size, undefined)).rounded, 0)
  })
})
