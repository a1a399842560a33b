import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { gradientErrors } from '../src/analysis/gradients.ts'
import { Stream } from '../src/formats/philox.ts'

/** `count` arrays, each `reference` changed by `change`. */
function* drawn(reference: Float32Array, count: number, change: (value: number, i: number) => number) {
  for (let draw = 0; draw < count; draw++) yield reference.map(change)
}
const near = (found: number, wanted: number, tolerance: number): void =>
  assert.ok(Math.abs(found - wanted) <= tolerance * Math.abs(wanted), `found ${found}, wanted ${wanted}`)

describe('errors of a gradient', () => {
  const random = new Stream(7, 0)
  /** Mean 0, variance 1/12. */
  const uniform = () => random.below(2 ** 20) / 2 ** 20 - 0.5
  const reference = Float32Array.from({ length: 20_000 }, () => 2 * uniform())
  const halves = [
    { start: 0, end: 10_000 },
    { start: 10_000, end: 20_000 },
  ]

  it('tell bias from variance', () => {
    // |g|^2 = n/3; a shrinkage of 5 % in the first half; noise of variance 0.01 in the second.
    const { whole, ranges } = gradientErrors(
      reference,
      halves,
      drawn(reference, 16, (g, i) => (i < 10_000 ? 0.95 * g : g + 0.1 * Math.sqrt(12) * uniform())),
    )
    near(ranges[0]!.bias, 0.05, 1e-3)
    assert.ok(ranges[0]!.variance < 1e-9)
    near(ranges[0]!.cosine, 1, 1e-6)
    near(ranges[1]!.variance, 0.03, 0.02)
    assert.ok(ranges[1]!.bias < 0.02, `bias ${ranges[1]!.bias} of what has none`)
    near(ranges[1]!.cosine, 1 / Math.sqrt(1.03), 2e-3)
    for (const { error, bias, variance } of [whole, ...ranges]) near(error ** 2, bias ** 2 + variance, 0.02)
    near(whole.variance, 0.015, 0.02)
    near(whole.bias, 0.05 / Math.sqrt(2), 0.02)
  })

  it('of one draw are all bias', () => {
    const { whole } = gradientErrors(
      reference,
      halves,
      drawn(reference, 1, g => 1.1 * g),
    )
    near(whole.bias, 0.1, 1e-5)
    assert.equal(whole.variance, 0)
    assert.equal(whole.error, whole.bias)
  })

  it('leave out what is in no range', () => {
    const { whole } = gradientErrors(
      reference,
      halves.slice(0, 1),
      drawn(reference, 2, (g, i) => (i < 10_000 ? g : Number.NaN)),
    )
    assert.deepEqual([whole.error, whole.bias, whole.variance], [0, 0, 0])
  })
})
