import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { dequantizeMatrix, scaleIndex, scaleValue } from '../src/formats/dequantize.ts'
import { type FormatName, formats } from '../src/formats/formats.ts'
import { multiplyQuantized } from '../src/formats/gemm.ts'
import { transpose } from '../src/formats/hadamard.ts'
import { encodeNearest } from '../src/formats/minifloat.ts'
import { amaxOf, codeAt, type QuantizeOptions, quantizeMatrix } from '../src/formats/quantize.ts'
import { reportOn } from '../src/formats/report.ts'
import { FLT_MAX, tensorScale } from '../src/formats/scales.ts'
import { block, fnv, fromHex, normals, nvfp4, padded } from './formats_vectors.ts'

const names = Object.keys(formats) as FormatName[]
const others = { e4m3: { scaleOrder: 'm6' }, ue8m0: { mxScale: 'floor' }, f32: { pow2Scales: true } } as const

describe('special values', () => {
  it('an all-zero tensor is zeros', () => {
    for (const format of names)
      for (const square of [false, true]) {
        const image = quantizeMatrix(new Float32Array(256), 2, 128, { format, square })
        assert.ok(image.codes.every(code => code === 0))
        assert.ok(dequantizeMatrix(image).every(value => value === 0))
        assert.equal(image.amax[0], 0)
      }
    const zero = nvfp4(new Float32Array(32), 1, 32)
    assert.ok(zero.scales.every(scale => scale === 0))
    assert.ok(multiplyQuantized(zero, nvfp4(normals(64), 2, 32)).every(value => value === 0))
  })

  it('a zero block keeps the sign of zero and the scale 0', () => {
    const { codes, scales } = nvfp4([...padded([-1]), ...padded([-0, 0])], 2, 16)
    assert.equal(scales[1], 0)
    assert.deepEqual(block(codes, 16).slice(0, 2), [8, 0])
  })

  it('a block too small for its tensor saturates under scale 0 and decodes to 0', () => {
    const image = nvfp4([...padded([1]), ...padded([1e-6, -1e-7])], 2, 16)
    assert.deepEqual(block(image.codes, 16).slice(0, 2), [7, 15])
    assert.ok(
      dequantizeMatrix(image)
        .subarray(16)
        .every(value => value === 0),
    )
  })

  it('a tensor of 1e-38 gives the known inconsistent codes and no NaN', () => {
    const image = nvfp4(new Array(16).fill(1e-38), 1, 16)
    assert.equal(image.scales[0], 0x31)
    assert.ok(block(image.codes).every(code => code === 5))
    assert.ok(Math.abs(dequantizeMatrix(image)[0]! - 6e-42) < 1e-42)
  })

  it('one infinity among ones', () => {
    const values = new Array(32).fill(1)
    values[3] = Number.POSITIVE_INFINITY
    const { codes, scales, amax } = nvfp4(values, 2, 16)
    assert.deepEqual([...amax], [Number.POSITIVE_INFINITY, 1])
    assert.deepEqual([...scales], [0x7e, 0x23])
    assert.deepEqual(block(codes), [0, 0, 0, 7, ...new Array(12).fill(0)])
    assert.deepEqual(block(codes, 16), new Array(16).fill(7))
  })

  it('NaN does not count as a magnitude, is reported, and becomes the largest element', () => {
    const values = padded([Number.NaN, 3])
    const { codes, amax } = nvfp4(values, 1, 16)
    assert.deepEqual([...amax], [3, 1])
    assert.deepEqual(block(codes).slice(0, 2), [7, 7])
    for (const round of ['stochastic', 'eden'] as const)
      assert.equal(block(nvfp4(values, 1, 16, { round, random: [1, 2, 3] }).codes)[0], 7)
    assert.equal(
      quantizeMatrix(Float32Array.from(padded([Number.NaN, 1], 32)), 1, 32, { format: 'mxfp8' }).codes[0],
      0x7f,
    )
  })

  it('amax reports finite values as such', () => {
    assert.deepEqual([...amaxOf(Float32Array.of(-3, 2, -0))], [3, 0])
    assert.deepEqual([...amaxOf(new Float32Array(0))], [0, 0])
    assert.deepEqual([...amaxOf(Float32Array.of(3.4028234663852886e38))], [Math.fround(3.4028234663852886e38), 0])
  })

  it('scales of an amax that is too small saturate, of NaN follow CUDA', () => {
    const image = nvfp4(padded([4]), 1, 16, { amax: Float32Array.of(1) })
    assert.deepEqual([image.scales[0], codeAt(image.codes, 4, 0)], [0x7e, 7])
    assert.equal(tensorScale(Number.NaN, 2688).encode, FLT_MAX)
    assert.equal(tensorScale(1e-37, 2688).encode, FLT_MAX)
    assert.equal(tensorScale(1e-37, 2688).decode, fromHex(0x00200000))
  })

  it('the outer scale of a product flushes to 0 and overflows as specified', () => {
    const product = (amax: number) => {
      const image = nvfp4(padded([amax]), 1, 16)
      return multiplyQuantized(image, image)[0]!
    }
    assert.equal(product(1e-23), 0)
    assert.equal(product(2e19), Number.POSITIVE_INFINITY)
    assert.ok(Math.abs(product(3) - 9) < 1e-6)
  })

  it('fp8: blocks of zeros, infinities and subnormals have the scale of the specification', () => {
    const of = (x: number, source: 'f32' | 'bf16') =>
      quantizeMatrix(Float32Array.of(x), 1, 1, { format: 'fp8', source }).scales[0]!
    assert.equal(of(0, 'f32'), 1)
    assert.equal(of(Number.POSITIVE_INFINITY, 'f32'), 1)
    assert.equal(of(1e-40, 'bf16'), Math.fround(1 / fromHex(0x7f7f0000)))
    assert.equal(of(1e-40, 'f32'), Math.fround(1 / fromHex(0x7f7fffff)))
  })

  it('mx: the smallest and largest magnitudes keep finite codes', () => {
    for (const format of ['mxfp4', 'mxfp8'] as const)
      for (const x of [1e-45, 1e-38, 2.5e38])
        for (const mxScale of ['up', 'floor'] as const) {
          const image = quantizeMatrix(Float32Array.from(padded([x], 32)), 1, 32, { format, mxScale })
          const back = dequantizeMatrix(image)[0]!
          assert.ok(Number.isFinite(back) && back <= 2 * x && image.scales[0]! < 255, `${format} ${x}: ${back}`)
        }
  })

  it('OCP floor saturates where rounding up does not', () => {
    const values = Float32Array.from(padded([7.9], 32))
    const back = (mxScale: 'up' | 'floor') =>
      dequantizeMatrix(quantizeMatrix(values, 1, 32, { format: 'mxfp4', mxScale }))[0]
    assert.equal(back('floor'), 6)
    assert.equal(back('up'), 8)
  })
})

describe('properties of quantised matrices', () => {
  it('every code is the nearest under its scale, by brute force, in every format and tiling', () => {
    for (const format of names)
      for (const square of [false, true])
        for (const more of [{}, others[formats[format].scale]]) {
          const x = normals(128 * 128).map(value => value * 3)
          const image = quantizeMatrix(x, 128, 128, { format, square, ...more })
          const back = dequantizeMatrix(image)
          const { element } = formats[format]
          const grid = [...element.values].filter(value => Math.abs(value) <= element.max)
          for (let i = 0; i < x.length; i += 7) {
            const index = scaleIndex(image, Math.floor(i / 128), i % 128)
            const outer = formats[format].tensorScale ? image.amax[0]! / image.bound : 1
            const scale = scaleValue(image, index) * outer
            let least = Number.POSITIVE_INFINITY
            for (const value of grid) least = Math.min(least, Math.abs(value * scale - x[i]!))
            assert.ok(Math.abs(back[i]! - x[i]!) <= least + 1e-6 * Math.abs(x[i]!), `${format} element ${i}`)
          }
        }
  })

  it('products and reports take the outer scale of each row', () => {
    const x = normals(4 * 64).map((value, i) => value * 1000 ** Math.floor(i / 64))
    const image = nvfp4(x, 4, 64, { outer: 'row' })
    const back = dequantizeMatrix(image)
    const product = multiplyQuantized(image, image)
    for (let m = 0; m < 4; m++)
      for (let n = 0; n < 4; n++) {
        let [dot, size] = [0, 0]
        for (let k = 0; k < 64; k++) {
          const term = back[m * 64 + k]! * back[n * 64 + k]!
          dot += term
          size += Math.abs(term)
        }
        assert.ok(Math.abs(product[m * 4 + n]! - dot) < 1e-5 * size, `${m}, ${n}`)
      }
    const { snr, saturated, amax } = reportOn(x, image)
    assert.ok(snr > 15 && saturated < 0.1 && amax === amaxOf(x)[0], `${snr} dB, ${saturated} saturated`)
  })

  it('a report counts values by hand', () => {
    // Under OCP's floor the scale is 1: 7.9 becomes 6, 0.2 becomes 0.
    const x = Float32Array.from(padded([7.9, 1, 0.2, -3, Number.NaN], 32))
    const image = quantizeMatrix(x, 1, 32, { format: 'mxfp4', mxScale: 'floor' })
    const report = reportOn(x, image, 1, 10)
    assert.deepEqual([report.flushed, report.saturated, report.notFinite, report.zeroScales], [0.1, 0.1, 1, 0])
    const relative = (Math.fround(1.9) / Math.fround(7.9) + 1) / 4
    assert.ok(Math.abs(report.relativeError - relative) < 1e-6)
    const noise = 1.9 ** 2 + 0.2 ** 2
    const power = 7.9 ** 2 + 1 + 0.2 ** 2 + 9
    assert.ok(Math.abs(report.snr - 10 * Math.log10(power / noise)) < 1e-5)
    assert.equal(
      report.codes.reduce((sum, count) => sum + count, 0),
      10,
    )
  })

  it('quantising is invariant to a power of two', () => {
    const x = normals(32 * 64)
    const options: Partial<QuantizeOptions>[] = [
      {},
      { scaleOrder: 'm6' },
      { square: true },
      { fourOverSix: 'mae' },
      { fourOverSix: 'mse', square: true },
      { round: 'stochastic', random: [1, 2, 3] },
      { round: 'stochastic', random: [1, 2, 3], headroom: 16 / 17 },
      { round: 'eden', random: [1, 2, 3] },
      { outer: 'row' },
    ]
    for (const more of options)
      for (const factor of [2 ** -30, 2 ** 11]) {
        const image = nvfp4(x, 32, 64, more)
        const scaled = nvfp4(
          x.map(value => value * factor),
          32,
          64,
          more,
        )
        assert.deepEqual(scaled.codes, image.codes, JSON.stringify(more))
        assert.deepEqual(scaled.scales, image.scales, JSON.stringify(more))
      }
    for (const format of ['mxfp4', 'mxfp8', 'fp8', 'fp8-tensor'] as const)
      assert.deepEqual(
        quantizeMatrix(
          x.map(value => value / 1024),
          32,
          64,
          { format },
        ).codes,
        quantizeMatrix(x, 32, 64, { format }).codes,
      )
  })

  it('a square image is the transpose of the image of the transpose', () => {
    const x = normals(128 * 256)
    for (const format of names) {
      const image = quantizeMatrix(x, 128, 256, { format, square: true })
      const turned = quantizeMatrix(transpose(x, 128, 256), 256, 128, { format, square: true })
      assert.deepEqual(transpose(dequantizeMatrix(image), 128, 256), dequantizeMatrix(turned))
    }
    const { scales } = nvfp4(x, 128, 256, { square: true })
    for (let r = 1; r < 16; r++) assert.deepEqual(scales.subarray(r * 16, r * 16 + 16), scales.subarray(0, 16))
  })

  it('an outer scale for each row quantises each row as if it were alone', () => {
    const x = normals(4 * 32).map((value, i) => value * 10 ** Math.floor(i / 32))
    const image = nvfp4(x, 4, 32, { outer: 'row' })
    const back = dequantizeMatrix(image)
    for (let r = 0; r < 4; r++) {
      const alone = nvfp4(x.subarray(r * 32, r * 32 + 32), 1, 32)
      assert.deepEqual(image.codes.subarray(r * 16, r * 16 + 16), alone.codes)
      assert.deepEqual(back.subarray(r * 32, r * 32 + 32), dequantizeMatrix(alone))
    }
  })

  it('an amax from outside replaces the one found here', () => {
    const x = normals(64)
    const whole = nvfp4(x, 2, 32)
    const half = nvfp4(x.subarray(0, 32), 1, 32, { amax: whole.amax })
    assert.deepEqual(half.codes, whole.codes.subarray(0, 16))
  })

  it('four-over-six never has a larger error than the scale of six', () => {
    const x = normals(64 * 64, 9)
    for (const square of [false, true]) {
      const chosen = nvfp4(x, 64, 64, { fourOverSix: 'mse', square })
      const back = dequantizeMatrix(chosen)
      const plain = dequantizeMatrix(nvfp4(x, 64, 64, { square }))
      const error = (values: Float32Array) => values.reduce((sum, value, i) => sum + (value - x[i]!) ** 2, 0)
      assert.ok(error(back) < error(plain))
    }
  })

  it('blocks at the edge may be short, as if padded with zeros', () => {
    const [rows, cols] = [19, 150]
    const x = normals(rows * cols)
    for (const format of names)
      for (const square of [false, true]) {
        const wide = new Float32Array(256 * 256)
        for (let r = 0; r < rows; r++) wide.set(x.subarray(r * cols, (r + 1) * cols), r * 256)
        const cropped = dequantizeMatrix(quantizeMatrix(x, rows, cols, { format, square }))
        const full = dequantizeMatrix(quantizeMatrix(wide, 256, 256, { format, square }))
        for (let i = 0; i < cropped.length; i++)
          assert.equal(cropped[i], full[Math.floor(i / cols) * 256 + (i % cols)], `${format} ${square} ${i}`)
      }
  })

  it('headroom keeps the largest element of every block from saturating', () => {
    const x = normals(64 * 256, 5)
    const saturated = (headroom: number) => {
      const image = nvfp4(x, 64, 256, { headroom })
      const back = image.amax[0]! / image.bound
      let count = 0
      for (let i = 0; i < x.length; i++) {
        const scale = scaleValue(image, scaleIndex(image, Math.floor(i / 256), i % 256)) * back
        if (Math.abs(x[i]!) > 6 * scale * (1 + 1e-6)) count++
      }
      return count
    }
    assert.ok(saturated(1) > 100)
    assert.equal(saturated(16 / 17), 0)
  })

  it('stochastic codes of another step, stream or seed differ, of the same address agree', () => {
    const x = normals(32 * 64)
    const draw = (random: number[], stream: number) =>
      fnv(nvfp4(x, 32, 64, { round: 'stochastic', random, stream }).codes)
    const addresses: [number[], number][] = [
      [[1, 2, 3], 4],
      [[1, 2, 4], 4],
      [[1, 2, 3], 5],
      [[0, 2, 3], 4],
      [[1, 0, 3], 4],
    ]
    assert.equal(new Set(addresses.map(([random, stream]) => draw(random, stream))).size, addresses.length)
    assert.equal(draw([1, 2, 3], 4), draw([1, 2, 3], 4))
  })

  it('block scales are rounded to nearest whatever the elements are', () => {
    const x = normals(32 * 64)
    for (const format of names) {
      const stochastic = quantizeMatrix(x, 32, 64, { format, round: 'stochastic', random: [1, 2, 3] })
      assert.deepEqual(stochastic.scales, quantizeMatrix(x, 32, 64, { format }).scales)
    }
  })

  it('the same randomness reaches the same element in every format', () => {
    const x = new Float32Array(2 * 64).fill(1 + 1 / 16)
    x.fill(448, 0, 1)
    x.fill(448, 64, 65)
    const a = quantizeMatrix(x, 2, 64, { format: 'fp8-tensor', round: 'stochastic', random: [1, 2, 3] })
    const b = quantizeMatrix(x, 2, 64, { format: 'mxfp8', round: 'stochastic', random: [1, 2, 3] })
    const ups = (codes: Uint8Array) => [...codes].map(code => code - encodeNearest(formats.mxfp8.element, 1))
    assert.deepEqual(
      ups(b.codes).filter((_, i) => i % 64 < 32),
      ups(a.codes).filter((_, i) => i % 64 < 32),
    )
    assert.ok(new Set(ups(a.codes)).size > 1)
  })

  it('options that exclude each other are refused', () => {
    const refused: [QuantizeOptions, RegExp][] = [
      [{ format: 'mxfp4', fourOverSix: 'mae' }, /four-over-six needs/],
      [{ format: 'nvfp4', fourOverSix: 'mae', round: 'stochastic', random: [1, 2, 3] }, /rounds to nearest/],
      [{ format: 'fp8', round: 'eden', random: [1, 2, 3] }, /MS-EDEN needs/],
      [{ format: 'nvfp4', round: 'eden', square: true, random: [1, 2, 3] }, /1x16/],
      [{ format: 'fp8', outer: 'row' }, /no outer scale/],
      [{ format: 'nvfp4', outer: 'row', square: true }, /span rows/],
      [{ format: 'nvfp4', headroom: 2 }, /headroom must be/],
      [{ format: 'nvfp4', round: 'stochastic' }, /needs random/],
      [{ format: 'fp8', scaleOrder: 'm6' }, /one of E4M3/],
      [{ format: 'mxfp4', pow2Scales: true }, /FP32 scales/],
      [{ format: 'nvfp4', mxScale: 'floor' }, /UE8M0 scales/],
    ]
    for (const [options, message] of refused)
      assert.throws(() => quantizeMatrix(new Float32Array(32), 1, 32, options), message)
    assert.throws(() => nvfp4(new Float32Array(15), 1, 15), /must be even, got 15/)
    assert.throws(() => nvfp4(new Float32Array(16), 2, 16), /not a matrix of 2 x 16/)
    assert.throws(() => nvfp4(new Float32Array(32), 2, 16, { outer: 'row', amax: new Float32Array(3) }), /amax has 3/)
    assert.throws(() => multiplyQuantized(nvfp4(normals(32), 1, 32), nvfp4(normals(16), 1, 16)), /32 columns with 16/)
  })
})
