import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { relativeDifferences, smooth, stepReaching, windowOf } from '../src/compare/curves.ts'
import { deviation, estimate, mean, median, seedsToResolve, studentQuantile } from '../src/compare/statistics.ts'

const near = (found: number, wanted: number, tolerance = 1e-9) =>
  assert.ok(Math.abs(found - wanted) <= tolerance * Math.abs(wanted), `found ${found}, wanted ${wanted}`)

describe('quantile of Student’s t', () => {
  it('is that of printed tables', () => {
    for (const [confidence, freedom, wanted] of [
      [0.95, 1, 12.7062047362],
      [0.95, 2, 4.3026527297],
      [0.95, 3, 3.1824463053],
      [0.95, 4, 2.7764451052],
      [0.95, 9, 2.2621571628],
      [0.95, 30, 2.042272456],
      [0.9, 1, 6.3137515147],
      [0.99, 5, 4.0321429836],
      [0.999, 10, 4.5868938587],
    ] as const)
      near(studentQuantile(confidence, freedom), wanted)
  })

  it('has closed forms for one and two degrees of freedom', () => {
    for (const confidence of [0.01, 0.3, 0.5, 0.8, 0.99, 0.9999]) {
      near(studentQuantile(confidence, 1), Math.tan((Math.PI / 2) * confidence))
      near(studentQuantile(confidence, 2), confidence * Math.sqrt(2 / (1 - confidence ** 2)))
    }
  })

  it('comes down to the normal distribution’s', () => near(studentQuantile(0.95, 100_000), 1.9599639845, 3e-5))

  it('refuses what has no quantile', () => {
    for (const freedom of [0, -1, 1.5, Number.NaN]) assert.throws(() => studentQuantile(0.95, freedom), RangeError)
    for (const confidence of [0, 1, -0.5, Number.NaN]) assert.throws(() => studentQuantile(confidence, 3), RangeError)
  })
})

describe('paired differences', () => {
  it('have mean, spread and interval by hand', () => {
    const { mean, spread, interval, resolved } = estimate([-0.01, -0.02, -0.03])!
    near(mean, -0.02)
    near(spread, 0.01)
    // 4.30265273 * 0.01 / sqrt(3) = 0.02484138
    near(interval![0], -0.04484138, 1e-6)
    near(interval![1], 0.00484138, 1e-6)
    assert.equal(resolved, false)
  })

  it('are resolved where the interval leaves out zero, on either side', () => {
    assert.equal(estimate([-0.02, -0.021, -0.019])!.resolved, true)
    assert.equal(estimate([0.02, 0.021, 0.019])!.resolved, true)
    assert.equal(estimate([0, 0, 0])!.resolved, false)
  })

  it('of one seed have no interval and resolve nothing', () => {
    assert.deepEqual(estimate([-0.5]), { mean: -0.5, spread: 0, interval: null, resolved: false })
    assert.equal(estimate([]), undefined)
  })

  it('say how many seeds would resolve them', () => {
    // Three: 4.303 * 0.01 / sqrt(3) = 0.0248 is too wide; four: 3.182 * 0.01 / 2 = 0.0159 is not.
    assert.equal(seedsToResolve({ mean: -0.02, spread: 0.01, interval: null, resolved: false }), 4)
    assert.equal(seedsToResolve({ mean: 0.02, spread: 0.01, interval: null, resolved: false }), 4)
    assert.equal(seedsToResolve({ mean: 1e-9, spread: 0.01, interval: null, resolved: false }), undefined)
    assert.equal(seedsToResolve({ mean: 0.02, spread: 0, interval: null, resolved: false }), undefined)
  })

  it('rest on mean, deviation and median', () => {
    assert.equal(mean([1, 2, 6]), 3)
    near(deviation([1, 2, 6]), Math.sqrt(7))
    assert.equal(deviation([4]), 0)
    assert.equal(median([9, 100, 10]), 10)
    assert.equal(median([4, 1, 3, 2]), 2.5)
  })
})

describe('curves', () => {
  it('are smoothed over what came before', () => {
    assert.deepEqual(smooth([4, 2, 6, 8], 2), [4, 3, 4, 7])
    assert.deepEqual(smooth([4, 2, 6], 1), [4, 2, 6])
    assert.deepEqual(smooth([], 3), [])
    assert.deepEqual([windowOf(800), windowOf(30), windowOf(3)], [40, 2, 1])
  })

  it('differ by the paper’s definition: negative where the experiment is worse', () => {
    const found = relativeDifferences([4, 2, 2], [4, 2.5, 1, 7])
    assert.deepEqual(found, [0, -0.25, 0.5])
  })

  it('come down to a level between two steps, and on a noisy way in the middle of its crossings', () => {
    assert.equal(stepReaching([8, 6, 4, 2], 5), 2.5)
    assert.equal(stepReaching([8, 4, 6, 4], 5), (1.75 + 3.5) / 2)
    assert.equal(stepReaching([8, 6, 4], 3), undefined)
    assert.equal(stepReaching([2, 1], 3), undefined)
    assert.equal(stepReaching([8, 4, 6], 5), undefined)
  })
})
