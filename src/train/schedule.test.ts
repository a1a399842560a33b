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
})
