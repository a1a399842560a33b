import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { learningRate, type Schedule } from './schedule.ts'
import { SpikeDetector } from './spikes.ts'

const wsd: Schedule = { warmup: 0.1, decay: 0.2, final: 0.01, shape: 'linear' }

describe('learning rate', () => {
  it('rises, stays, falls', () => {
    assert.equal(learningRate(0, 100, 1, wsd), 0.1)
    assert.equal(learningRate(9, 100, 1, wsd), 1)
    assert.equal(learningRate(10, 100, 1, wsd), 1)
    assert.equal(learningRate(79, 100, 1, wsd), 1)
    assert.ok(Math.abs(learningRate(89, 100, 1, wsd) - 0.505) < 1e-12)
    assert.ok(Math.abs(learningRate(99, 100, 1, wsd) - 0.01) < 1e-12)
  })
  it('cosine ends where linear ends', () => {
    const cosine: Schedule = { ...wsd, shape: 'cosine' }
    assert.ok(Math.abs(learningRate(99, 100, 1, cosine) - 0.01) < 1e-12)
    assert.ok(Math.abs(learningRate(89, 100, 1, cosine) - 0.505) < 1e-12)
  })
  it('does without warm-up and decay', () => {
    const flat: Schedule = { ...wsd, warmup: 0, decay: 0 }
    for (const step of [0, 50, 99]) assert.equal(learningRate(step, 100, 3, flat), 3)
  })
})

describe('spike detector', () => {
  it('reports a jump and not a smooth fall', () => {
    const detector = new SpikeDetector()
    for (let step = 0; step < 200; step++)
      assert.equal(detector.observe(5 - step / 100 + 0.02 * Math.sin(step)), undefined)
    assert.ok(detector.observe(6)! > 6)
  })
  /** What it says of `loss` after so many steps, each with the loss of its number. */
  const after = (steps: number, of: (step: number) => number, loss: number) => {
    const detector = new SpikeDetector()
    for (let step = 0; step < steps; step++) detector.observe(of(step))
    return detector.observe(loss)
  }
  it('counts deviations over about ten steps', () => {
    // With losses 1 + a, 1 - a in turn the mean swings by a / 19 around 1, and each loss is 20 a / 19 from it: that is the deviation.
    const swing = (step: number) => (step % 2 === 0 ? 1.1 : 0.9)
    const [mean, deviation] = [1 - 0.1 / 19, 2 / 19]
    assert.ok(Math.abs(after(400, swing, 5)! - (5 - mean) / deviation) < 1e-6)
    assert.ok(Math.abs(after(400, swing, mean + 6.01 * deviation)! - 6.01) < 1e-6)
    assert.equal(after(400, swing, mean + 5.99 * deviation), undefined)
  })
  it('takes a smooth curve to deviate by 2 %, and judges after twenty steps', () => {
    const flat = () => 1
    assert.ok(Math.abs(after(400, flat, 1.13)! - 6.5) < 1e-6)
    assert.equal(after(400, flat, 1.11), undefined)
    assert.ok(after(20, flat, 5)! > 6)
    assert.equal(after(19, flat, 5), undefined)
  })
})
