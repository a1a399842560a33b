import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { encodeBf16, roundBf16 } from '../src/formats/bf16.ts'
import { decodeF16 } from '../src/formats/f16.ts'
import { decode, e2m1, e4m3, e5m2, encodeNearest, encodeStochastic, type MiniFloat } from '../src/formats/minifloat.ts'
import { philox, Stream } from '../src/formats/philox.ts'
import { decodeUe8m0, encodeFloor, encodeUp } from '../src/formats/ue8m0.ts'
import { nextDown, nextUp } from './formats_vectors.ts'

const miniFloats = [e2m1, e4m3, e5m2]

/** Nearest finite value by trying every code; ties to the even code; the sign bit is the value's. */
function bruteForce(format: MiniFloat, x: number): number {
  const half = format.values.length / 2
  let best = 0
  for (let code = 0; code < half && format.values[code]! <= format.max; code++) {
    const error = Math.abs(format.values[code]! - Math.abs(x))
    const least = Math.abs(format.values[best]! - Math.abs(x))
    if (error < least || (error === least && code % 2 === 0)) best = code
  }
  return x < 0 || Object.is(x, -0) ? best + half : best
}

const magnitudesOf = (format: MiniFloat): number[] =>
  [...format.values.subarray(0, format.values.length / 2)].filter(value => value <= format.max)

/** Every value, every midpoint, their neighbours, values far outside, and random ones over all exponents in reach. */
function probes(format: MiniFloat): number[] {
  const finite = magnitudesOf(format)
  const points = finite.flatMap((value, i) => (i > 0 ? [value, (value + finite[i - 1]!) / 2] : [value]))
  const around = points.flatMap(x => (x > 0 ? [nextDown(x), x, nextUp(x)] : [x, 2 ** -149]))
  const random = new Stream(3, 0)
  const drawn = Array.from({ length: 5000 }, () => Math.fround(random.normal() * 2 ** (random.below(40) - 22)))
  return [...around, ...around.map(x => -x), ...drawn, format.max * 1.0001, 1e9, -1e6]
}

describe('scalar formats', () => {
  for (const format of miniFloats) {
    it(`${format.name}: encoding finds the nearest value, ties to even`, () => {
      for (const x of probes(format)) {
        const want = bruteForce(format, x)
        assert.equal(encodeNearest(format, x), want, `${x}`)
        assert.equal(format.nearest(x), want, `${x} by the format's own rule`)
      }
    })

    it(`${format.name}: encoding a decoded code gives the code`, () => {
      for (let code = 0; code < format.values.length; code++) {
        const value = decode(format, code)
        if (!Number.isFinite(value)) continue
        assert.equal(encodeNearest(format, value), code)
        for (const random of [0, 127, 255]) assert.equal(encodeStochastic(format, value, random), code)
      }
    })

    it(`${format.name}: saturates, NaN becomes its positive code`, () => {
      const top = encodeNearest(format, format.max)
      const sign = format.values.length / 2
      for (const encode of [encodeNearest, (f: MiniFloat, x: number) => encodeStochastic(f, x, 255)]) {
        assert.equal(encode(format, Number.POSITIVE_INFINITY), top)
        assert.equal(encode(format, Number.NEGATIVE_INFINITY), top + sign)
        assert.equal(encode(format, Number.NaN), format.nan)
        assert.equal(encode(format, -0), sign)
      }
      assert.equal(format.nearest(Number.NaN), format.nan)
    })

    it(`${format.name}: stochastic rounding goes up for exactly T of 256 random bytes`, () => {
      const random = new Stream(4, 0)
      for (let trial = 0; trial < 200; trial++) {
        const x = Math.fround((random.uniform() * 2 - 1) * format.max * 2 ** -random.below(12))
        const magnitudes = magnitudesOf(format)
        const lower = magnitudes.findLastIndex(value => value <= Math.abs(x))
        const [lo, hi] = [magnitudes[lower]!, magnitudes[lower + 1] ?? Number.POSITIVE_INFINITY]
        const T = Math.floor(((Math.abs(x) - lo) / (hi - lo)) * 256)
        let ups = 0
        for (let r = 0; r < 256; r++) {
          const code = encodeStochastic(format, x, r)
          if ((code & (format.values.length / 2 - 1)) !== lower) ups++
        }
        assert.equal(ups, T, `${x}`)
      }
    })
  }

  it('e2m1: the specified decisions of stochastic rounding', () => {
    const decisions: [number, number, number][] = [
      [0.1, 204, 0],
      [0.1, 205, 1],
      [0.3, 102, 0],
      [0.3, 103, 1],
      [1.75, 127, 3],
      [1.75, 128, 4],
      [2.5, 127, 4],
      [2.5, 128, 5],
      [5, 127, 6],
      [5, 128, 7],
      [2 ** -9, 254, 0],
      [2 ** -9, 255, 1],
      [0.0019, 255, 0],
      [5.999, 0, 6],
      [5.999, 1, 7],
      [6.2, 255, 7],
    ]
    for (const [y, random, code] of decisions) {
      assert.equal(encodeStochastic(e2m1, Math.fround(y), random), code, `${y}, ${random}`)
      assert.equal(encodeStochastic(e2m1, -Math.fround(y), random), code | 8, `-${y}, ${random}`)
    }
  })

  it('e4m3: the ends of its range', () => {
    const tiny = 2 ** -10
    const cases: [number, number][] = [
      [tiny, 0],
      [1.0001 * tiny, 1],
      [2 ** -9, 1],
      [3 * tiny, 2],
      [448, 0x7e],
      [464, 0x7e],
      [465, 0x7e],
      [1e9, 0x7e],
    ]
    for (const [x, code] of cases) assert.equal(encodeNearest(e4m3, Math.fround(x)), code, `${x}`)
    assert.ok(Number.isNaN(decode(e4m3, 0x7f)) && Number.isNaN(decode(e4m3, 0xff)))
  })

  it('e5m2: infinities and NaN decode, its largest value is 57344', () => {
    assert.equal(decode(e5m2, 0x7b), 57344)
    assert.equal(decode(e5m2, 0x7c), Number.POSITIVE_INFINITY)
    assert.equal(decode(e5m2, 0xfc), Number.NEGATIVE_INFINITY)
    for (const code of [0x7d, 0x7e, 0x7f]) assert.ok(Number.isNaN(decode(e5m2, code)))
    assert.equal(decode(e5m2, 1), 2 ** -16)
  })

  it('ue8m0: round up and floor on the specified values', () => {
    const rows: [number, number, number, number][] = [
      [6, 127, 121, 127],
      [6.0001, 128, 121, 127],
      [3, 126, 120, 126],
      [3.01, 127, 120, 126],
      [4, 127, 121, 127],
      [8, 128, 122, 128],
      [0.75, 124, 118, 124],
      [1, 125, 119, 125],
      [448, 134, 127, 133],
      [449, 134, 128, 133],
    ]
    for (const [amax, six, large, floor] of rows) {
      const x = Math.fround(amax)
      assert.equal(encodeUp(Math.fround(x * Math.fround(1 / 6))), six, `${amax} / 6`)
      assert.equal(encodeUp(Math.fround(x * Math.fround(1 / 448))), large, `${amax} / 448`)
      assert.equal(encodeFloor(x, 2), floor, `${amax} floor`)
    }
  })

  it('ue8m0: round up is the smallest power of two not below, over every exponent', () => {
    for (let exponent = -126; exponent < 127; exponent++)
      for (const mantissa of [1, 1 + 2 ** -23, 1.5, 2 - 2 ** -23]) {
        const v = 2 ** exponent * mantissa
        let code = 0
        while (decodeUe8m0(code) < v) code++
        assert.equal(encodeUp(v), code, `${v}`)
      }
    assert.equal(encodeUp(0), 0)
    assert.equal(encodeUp(2 ** -127), 0)
    assert.equal(encodeUp(2 ** -127 + 2 ** -149), 1)
    assert.equal(encodeUp(Number.POSITIVE_INFINITY), 0xfe)
    assert.equal(encodeUp(Number.NaN), 0xff)
    assert.equal(encodeFloor(1e-39, 2), 0)
    assert.equal(encodeFloor(Number.NaN, 2), 0xff)
    assert.equal(decodeUe8m0(0), 2 ** -127)
    assert.ok(Number.isNaN(decodeUe8m0(255)))
  })

  it('bf16: nearest-even, overflow to infinity, NaN stays quiet', () => {
    assert.equal(roundBf16(1 + 2 ** -8), 1)
    assert.equal(roundBf16(1 + 3 * 2 ** -8), 1 + 2 ** -6)
    assert.equal(roundBf16(3.4e38), Number.POSITIVE_INFINITY)
    assert.equal(encodeBf16(-0), 0x8000)
    assert.equal(encodeBf16(Number.NaN) & 0x7fc0, 0x7fc0)
  })

  it('f16: normal, subnormal, infinite and NaN', () => {
    assert.equal(decodeF16(0x3c00), 1)
    assert.equal(decodeF16(0x7bff), 65504)
    assert.equal(decodeF16(0x8001), -(2 ** -24))
    assert.equal(decodeF16(0xfc00), Number.NEGATIVE_INFINITY)
    assert.ok(Number.isNaN(decodeF16(0x7e00)))
    assert.ok(Object.is(decodeF16(0x8000), -0))
  })

  it('philox: the known answers', () => {
    const words = (counter: number, key: number) =>
      [...philox([counter, counter, counter, counter], [key, key], new Uint32Array(4))].map(word => word.toString(16))
    assert.deepEqual(words(0, 0), ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8'])
    assert.deepEqual(words(0xffffffff, 0xffffffff), ['408f276d', '41c83b0e', 'a20bc7c6', '6d5451fd'])
    // Digits of pi: other words everywhere.
    const [counter, key] = [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
    ]
    const found = [...philox(counter!, key!, new Uint32Array(4))].map(word => word.toString(16))
    assert.deepEqual(found, ['d16cfe09', '94fdcceb', '5001e420', '24126ea1'])
  })
})
