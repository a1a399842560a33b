import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { openCorpus } from '../src/data/corpus.ts'
import { partOf } from '../src/data/stream.ts'
import type { Trainer } from '../src/train/trainer.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

/**
 * Training really teaches the linear layers, which are what a recipe quantises: the bound lies between what they reach and what the rest of
 * the model reaches without them, and the second is tested too.
 */

const folder = testFolder()
const text = smallConfig(folder).data.files
const corpus = openCorpus(text, 'bytes')

const steps = 40
/** In nats. The words of the text are drawn at random, so no model gets below about 0.6. */
const bound = 1.25

/** Validation loss after so many steps. */
async function learn(recipe: string, afterStep: (trainer: Trainer) => void = () => {}): Promise<number> {
  const data = ['data.batch=8', 'data.micro_batch=8', 'data.sequence=64']
  const config = smallConfig(folder, `recipe=${recipe}`, `steps=${steps}`, ...data)
  const trainer = await openTrainer(config, corpus)
  try {
    for (let step = 0; step < steps; step++) {
      trainer.step(step)
      afterStep(trainer)
    }
    return trainer.validate().loss
  } finally {
    trainer.model.backend.close()
  }
}

describe('a small model', () => {
  for (const recipe of ['nvfp4', 'bf16'])
    it(`learns words in ${recipe}`, async t => {
      const loss = await learn(recipe)
      t.diagnostic(`validation loss ${loss.toFixed(3)}, bound ${bound}`)
      assert.ok(loss < bound, `${loss} nats, wanted less than ${bound}`)
    })

  it('does not reach that bound if its linear layers stay as they were', async t => {
    let initial: Float32Array[] | undefined
    const loss = await learn('nvfp4', ({ model }) => {
      const weights = model.linears.map(({ weight }) => weight.value)
      initial ??= weights.map(weight => weight.floats())
      for (const [i, weight] of weights.entries()) weight.write(initial[i]!)
      model.weightsChanged()
    })
    t.diagnostic(`validation loss ${loss.toFixed(3)}, bound ${bound}`)
    assert.ok(loss > bound, `${loss} nats: the bound ${bound} is too easy`)
  })

  for (const recipe of ['nvfp4', 'bf16'])
    it(`learns one batch by heart in ${recipe}`, async () => {
      const { name, stream } = corpus.sources[0]!
      const one = { name, stream: partOf(stream, 0, 4 * 32 + 1, 1) }
      const config = smallConfig(folder, `recipe=${recipe}`, 'steps=200', 'data.micro_batch=4', 'optimizer.lr=8e-3')
      const trainer = await openTrainer(config, { ...corpus, sources: [one] })
      let loss = Number.POSITIVE_INFINITY
      for (let step = 0; step < 200; step++) loss = trainer.step(step).loss
      trainer.model.backend.close()
      assert.ok(loss < 0.1, `${loss} nats`)
    })
})
