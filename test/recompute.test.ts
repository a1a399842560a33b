import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { presets } from '../presets/index.ts'
import { runSchema } from '../src/config/schema.ts'
import type { ModelConfig } from '../src/model/config.ts'
import { describeModel } from '../src/model/describe.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

/** What three steps compute, one of them sampled, and what they leave behind. */
async function train(...overrides: string[]) {
  const trainer = await openTrainer(smallConfig(folder, 'steps=12', 'model.pattern=M-*-M-*-', ...overrides))
  const { backend, parameters, tape } = trainer.model
  const reports = [0, 1, 2].map(step => {
    const { numerics, ...report } = trainer.step(step, step === 1)
    const sorted = numerics.map(record => JSON.stringify(record)).sort()
    return { ...report, numerics: sorted }
  })
  const { first, second } = trainer.optimizer.moments
  const tensors = [parameters.value, first, second].map(tensor =>
    Buffer.from(tensor.floats().buffer).toString('base64'),
  )
  const { peak, live } = tape.arena
  backend.close()
  return { results: { reports, tensors }, peak, live }
}

describe('recomputation of blocks', () => {
  for (const [recipe, backend, ...overrides] of [
    ['nvfp4', 'cpu'],
    ['nvfp4-signs-fresh', 'cpu', 'model.activations=bf16'],
    ['fp8', 'cpu'],
    ['bf16', 'cpu', 'model.rope=10000'],
    ['nvfp4', 'reference', 'data.batch=1', 'data.micro_batch=1'],
  ])
    it(`in ${[recipe, backend, ...overrides].join(' ')} gives the same losses, gradients and measurements with less memory`, async () => {
      const settings = [`recipe=${recipe}`, `backend=${backend}`, ...overrides]
      const plain = await train(...settings)
      const again = await train(...settings, 'model.recompute=block')
      assert.ok(plain.results.reports[1]!.numerics.length >= 8)
      assert.deepEqual(again.results, plain.results)
      assert.ok(again.peak < 0.7 * plain.peak, `${again.peak} bytes at most, ${plain.peak} without`)
      assert.equal(again.live, plain.live)
    })

  it('keeps the stream and the inside of one block, which the dry run says', () => {
    const config = runSchema.parse(presets['nemotron-h-8b'])
    const memory = (recompute: 'none' | 'block') =>
      describeModel({ ...config.model, activations: 'bf16', recompute } as ModelConfig, findRecipe('nvfp4'), 8192)
        .memory
    const [none, block] = [memory('none'), memory('block')]
    const stream = 2 * 4096 * 53
    // The widest block is Mamba-2: a projection of 18,560, 10,240 channels and 8,192 heads' outputs, in BF16; its input and output
    // projections keep 4,096 and 8,192 values in 4.5 bits, or in 16 where the layer stays in BF16.
    assert.equal(block.othersPerToken, stream + 2 * (18_560 + 10_240 + 8_192))
    assert.equal(block.inputsPerTokenBf16, 2 * (4096 + 8192))
    assert.ok(block.inputsPerToken <= block.inputsPerTokenBf16)
    const total = ({ inputsPerToken, othersPerToken }: typeof none) => inputsPerToken + othersPerToken
    assert.ok(total(block) < 0.25 * total(none), `${total(block)} of ${total(none)} bytes a token`)
    assert.equal(block.copies, 0, 'weights are rounded in each product')
    const changed = { inputsPerToken: 0, inputsPerTokenBf16: 0, othersPerToken: 0, copies: 0, panels: 0 }
    assert.deepEqual({ ...block, ...changed }, { ...none, ...changed })
  })
})
