import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { roundBf16 } from '../src/formats/bf16.ts'
import { rotate, signWords, transpose, unrotate } from '../src/formats/hadamard.ts'
import { Stream } from '../src/formats/philox.ts'

const integers = (size: number, seed: number): Float32Array => {
  const random = new Stream(seed, 0)
  return Float32Array.from({ length: size }, () => random.below(255) - 127)
}
const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
const popcount = (x: number): number => [...x.toString(2)].filter(bit => bit === '1').length

describe('Hadamard rotation', () => {
  it('has the specified fixed signs', () => {
    const word = signWords('fixed')[0]!
    assert.equal(word & 0xffff, 0xd7e8)
    const signs = Array.from({ length: 16 }, (_, i) => ((word >>> i) & 1 ? '-' : '+')).join('')
    assert.equal(signs, '+++-+------+-+--')
    assert.deepEqual([...signWords('none')], [0, 0, 0, 0])
  })

  it('draws fresh signs by seed, step and stream', () => {
    const draw = (random: number[], stream: number) => signWords('fresh', random, stream).join()
    const draws = [draw([1, 2, 3], 4), draw([1, 2, 4], 4), draw([1, 2, 3], 5), draw([2, 2, 3], 4)]
    assert.equal(new Set(draws).size, 4)
    assert.equal(draw([1, 2, 3], 4), draws[0])
  })

  for (const size of [4, 16, 32, 64, 128])
    it(`size ${size}: column i is the sign of i times row i of Sylvester's matrix`, () => {
      for (const kind of ['fixed', 'fresh', 'none'] as const) {
        const signs = signWords(kind, [5, 6, 7], 8)
        const h = Math.fround(1 / Math.sqrt(size))
        for (let i = 0; i < size; i++) {
          const unit = new Float32Array(size)
          unit[i] = 1
          const sign = (signs[i >> 5]! >>> (i & 31)) & 1 ? -1 : 1
          const want = Float32Array.from({ length: size }, (_, j) => sign * (popcount(i & j) % 2 ? -h : h))
          assert.deepEqual(rotate(unit, 1, size, { size, signs }), want)
        }
      }
    })

  it('cancels in a product, exactly where 1 / sqrt(size) is a power of two', () => {
    for (const size of [4, 16, 64, 32, 128]) {
      const a = integers(256, 1)
      const b = integers(256, 2)
      const signs = signWords('fresh', [1, 2, 3], 4)
      const rotated = dot(rotate(a, 2, 128, { size, signs }), rotate(b, 2, 128, { size, signs }))
      const exact = Number.isInteger(Math.log2(size) / 2)
      const limit = exact ? 0 : 1e-6 * Math.sqrt(dot(a, a) * dot(b, b))
      assert.ok(Math.abs(rotated - dot(a, b)) <= limit, `size ${size}: ${rotated} and ${dot(a, b)}`)
      const other = signWords('fresh', [1, 2, 4], 4)
      assert.notEqual(dot(rotate(a, 2, 128, { size, signs }), rotate(b, 2, 128, { size, signs: other })), dot(a, b))
    }
  })

  it('rounds to BF16 only what was BF16', () => {
    const x = Float32Array.from(integers(64, 3), value => roundBf16(value / 3))
    const options = { size: 16, signs: signWords('fixed') }
    const exact = rotate(x, 1, 64, options)
    assert.deepEqual(rotate(x, 1, 64, { ...options, bf16: true }), exact.map(roundBf16))
    assert.ok(exact.some(value => value !== roundBf16(value)))
  })

  it('adds in the order of the input', () => {
    const x = Float32Array.of(2 ** 24, 1, 1, -(2 ** 24))
    const [first] = rotate(x, 1, 4, { size: 4, signs: signWords('none') })
    assert.equal(first, 0)
  })

  it('is undone by its transpose', () => {
    const x = integers(512, 4)
    for (const size of [4, 16, 32, 64, 128]) {
      const options = { size, signs: signWords('fixed') }
      const back = unrotate(rotate(x, 4, 128, options), 4, 128, options)
      for (let i = 0; i < x.length; i++) assert.ok(Math.abs(back[i]! - x[i]!) < 1e-4)
    }
  })

  it('refuses sizes that it does not have and columns that do not fit', () => {
    const signs = signWords('none')
    assert.throws(() => rotate(new Float32Array(24), 1, 24, { size: 8, signs }), /size 8 is not one of 4, 16/)
    assert.throws(() => rotate(new Float32Array(24), 1, 24, { size: 16, signs }), /24 columns are not a multiple/)
  })

  it('transposes', () => {
    assert.deepEqual(transpose(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 3), Float32Array.of(1, 4, 2, 5, 3, 6))
    assert.deepEqual(transpose(Uint8Array.of(1, 2), 1, 2), Uint8Array.of(1, 2))
  })
})
