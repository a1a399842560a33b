import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { toBf16 } from '../src/formats/bf16.ts'
import { scaleIndex, scaleValue } from '../src/formats/dequantize.ts'
import { alphaOf, multiplyQuantized } from '../src/formats/gemm.ts'
import { rotate, signWords, transpose } from '../src/formats/hadamard.ts'
import { decode, e2m1 } from '../src/formats/minifloat.ts'
import { amaxOf, codeAt, limitsOf, type QuantizeOptions, quantizeMatrix } from '../src/formats/quantize.ts'
import { tensorScale } from '../src/formats/scales.ts'
import { swizzle, swizzleOffset, unswizzle } from '../src/formats/swizzle.ts'
import { block, fnv, fromHex, generate, hex, nvfp4, padded } from './formats_vectors.ts'

describe('check values of docs/numerics.md', () => {
  const x = generate(64, 128, 12345)

  it('the generator and the scales of a tensor', () => {
    assert.equal(fnv(toBf16(x)), 'c91530ad')
    assert.deepEqual([...toBf16(x.subarray(0, 4))], [0x3dc6, 0x3e23, 0xbfd6, 0xbe8f])
    const amax = amaxOf(x)
    const { encode, decode } = tensorScale(amax[0]!, 2688)
    assert.deepEqual([amax[0]!, encode, decode].map(hex), ['3FFF0000', '44A8A8A9', '3A424924'])
  })

  it('rowwise, both orders of operations', () => {
    for (const scaleOrder of ['q6', 'm6'] as const) {
      const { codes, scales } = nvfp4(x, 64, 128, { scaleOrder })
      assert.equal(fnv(codes), '794aee35')
      assert.equal(fnv(scales), '082bf828')
      assert.equal(scales[0], 0x7e)
      assert.equal(
        block(codes)
          .map(code => code.toString(16))
          .join(''),
        '11fae9a7c8088810',
      )
      assert.equal(Buffer.from(codes.subarray(0, 8)).toString('hex'), '11af9e7a8c808801')
    }
  })

  it('16x16 tiles', () => {
    const { codes, scales } = nvfp4(x, 64, 128, { square: true })
    assert.equal(fnv(codes), 'eef9ff03')
    assert.equal(fnv(scales), 'ce6dc345')
  })

  it('rotated along the rows', () => {
    const z = rotate(transpose(x, 64, 128), 128, 64, { size: 16, signs: signWords('fixed'), bf16: true })
    assert.equal(fnv(toBf16(z)), '00398311')
    assert.deepEqual([...toBf16(z.subarray(0, 4))], [0x3d81, 0x3d14, 0x3e03, 0xbdea])
    const { codes, scales, amax } = nvfp4(z, 128, 64)
    assert.equal(hex(amax[0]!), '40240000')
    assert.equal(hex(tensorScale(amax[0]!, 2688).encode), '44831F38')
    assert.equal(fnv(codes), 'e4fa9c5a')
    assert.equal(fnv(scales), '719cd586')
  })

  it('stochastic rounding', () => {
    const { codes } = nvfp4(x, 64, 128, { round: 'stochastic', random: [0x1234, 0x5678, 9], stream: 5 })
    assert.equal(fnv(codes), '9020e9d5')
    assert.equal(
      block(codes)
        .map(code => code.toString(16))
        .join(''),
      '01faf997c8088910',
    )
    const nearest = nvfp4(x, 64, 128).codes
    let differing = 0
    for (let i = 0; i < x.length; i++) if (codeAt(codes, 4, i) !== codeAt(nearest, 4, i)) differing++
    assert.equal(differing, 1826)
  })

  it('the product with a weight', () => {
    const w = nvfp4(generate(32, 128, 777), 32, 128, { square: true })
    assert.equal(hex(w.amax[0]!), '3FFF0000')
    const y = multiplyQuantized(nvfp4(x, 64, 128), w)
    assert.deepEqual([y[0]!, y[63 * 32 + 31]!].map(hex), ['C00022CA', '40E01E5B'])
    assert.equal(fnv(toBf16(y)), 'a3880791')
  })

  it('the same product in whole numbers of 2^-20, which nothing rounds', () => {
    const w = nvfp4(generate(32, 128, 777), 32, 128, { square: true })
    const image = nvfp4(x, 64, 128)
    const exact = (m: number, n: number): number => {
      let acc = 0
      for (let k = 0; k < 128; k++) {
        const a = decode(e2m1, codeAt(image.codes, 4, m * 128 + k)) * scaleValue(image, scaleIndex(image, m, k))
        acc += a * decode(e2m1, codeAt(w.codes, 4, n * 128 + k)) * scaleValue(w, scaleIndex(w, n, k)) * 2 ** 20
      }
      return acc
    }
    assert.deepEqual([exact(0, 0), exact(63, 31)], [-3_821_984_022_528, 13_369_830_539_264])
    const alpha = alphaOf(image, 0, w, 0)
    assert.equal(hex(alpha), '351372F0')
    const y = multiplyQuantized(image, w)
    for (let m = 0; m < 64; m++)
      for (let n = 0; n < 32; n++) assert.equal(y[m * 32 + n], Math.fround(alpha * Math.fround(exact(m, n) / 2 ** 20)))
  })

  it('fp8', () => {
    const z = generate(128, 256, 4242)
    const rows: [boolean, boolean, string, string, string, string][] = [
      [false, false, '228d67d1', '223f05c8', '43656042', '3B8EDB6D'],
      [false, true, '7afd10be', 'a9458070', '43000000', '3C000000'],
      [true, false, 'cd34627d', '6673de69', '4360E0E1', '3B91B6DB'],
      [true, true, 'ecd2f4ce', '4320ca05', '', ''],
    ]
    for (const [square, pow2Scales, codes, scales, scale, inverse] of rows) {
      const image = quantizeMatrix(z, 128, 256, { format: 'fp8', square, pow2Scales, source: 'bf16' })
      assert.equal(fnv(image.codes), codes)
      assert.equal(fnv(image.scales), scales)
      if (scale) assert.equal(hex(image.scales[0]!), inverse)
      if (scale) assert.equal(hex(Math.fround(1 / fromHex(Number.parseInt(scale, 16)))), inverse)
    }
  })

  it('formats and roundings for which NVIDIA has no vectors, as test/oracle/check_values.py has them', () => {
    const drawn = { random: [0x1234, 0x5678, 9], stream: 5 }
    const rows: [QuantizeOptions, string, string][] = [
      [{ format: 'nvfp4', round: 'stochastic', headroom: 16 / 17, ...drawn }, '6963d8e7', '082bf828'],
      [{ format: 'nvfp4', outer: 'row' }, '77799712', '3cde0c62'],
      [{ format: 'nvfp4', fourOverSix: 'mae' }, '14a9d197', 'e0ac1e5d'],
      [{ format: 'nvfp4', fourOverSix: 'mse' }, 'e2238fda', '4480ec19'],
      [{ format: 'nvfp4', fourOverSix: 'mse', square: true }, '77249778', '04259225'],
      [{ format: 'nvfp4', round: 'eden', ...drawn }, '0fe4f6e8', '129d39b2'],
      [{ format: 'mxfp4' }, 'b808e28a', '0b4d6c7a'],
      [{ format: 'mxfp4', mxScale: 'floor' }, '4b503778', 'eb8f50f3'],
      [{ format: 'mxfp4', square: true }, 'a54ccf20', 'e5c4a1c5'],
      [{ format: 'mxfp4', round: 'stochastic', ...drawn }, 'de6356af', '0b4d6c7a'],
      [{ format: 'mxfp8' }, 'c4625ed0', 'd35f496f'],
      [{ format: 'mxfp8', mxScale: 'floor' }, 'a8eed102', 'd6bc3637'],
      [{ format: 'mxfp8', round: 'stochastic', ...drawn }, 'd2e30c3b', 'd35f496f'],
      [{ format: 'fp8-tensor', source: 'bf16' }, '16b87217', '910569fc'],
    ]
    for (const [options, codes, scales] of rows) {
      const image = quantizeMatrix(x, 64, 128, options)
      assert.deepEqual([fnv(image.codes), fnv(image.scales)], [codes, scales], JSON.stringify(options))
    }
    const { limit, bound } = limitsOf({ format: 'nvfp4', round: 'eden' })
    assert.deepEqual([limit, bound, Math.fround(1 / 2688)].map(hex), ['40C24EB2', '44C24CC1', '39C30C31'])
  })

  it('rotations by 32 and, with signs drawn anew, by 128', () => {
    const rotated = (size: number, signs: Uint32Array) => rotate(x, 64, 128, { size, signs, bf16: true })
    assert.equal(fnv(toBf16(rotated(32, signWords('fixed')))), '16390209')
    const drawn = [0x1234, 0x5678, 9]
    const fresh = signWords('fresh', drawn, 5)
    assert.equal(hex(Math.fround(1 / Math.sqrt(32))), '3E3504F3')
    assert.deepEqual([...fresh], [0x968805d5, 0xff204291, 0xce46898f, 0x14e6d2cd])
    const z = rotated(128, fresh)
    assert.equal(fnv(toBf16(z)), 'e3488385')
    const { codes, scales } = nvfp4(z, 64, 128, { round: 'eden', random: drawn, stream: 5 })
    assert.deepEqual([fnv(codes), fnv(scales)], ['17ee552c', 'a22650ca'])
  })

  it('an exact tie separates the orders q6 and m6, whatever power of two multiplies it', () => {
    for (const factor of [1, 2 ** -20, 2 ** 30]) {
      const values = padded([...padded([3 * factor]), 2.25 * factor], 32)
      assert.deepEqual([...nvfp4(values, 2, 16, { scaleOrder: 'q6' }).scales], [0x7e, 0x7a])
      assert.deepEqual([...nvfp4(values, 2, 16, { scaleOrder: 'm6' }).scales], [0x7e, 0x7b])
    }
  })

  it('the smallest block scales', () => {
    const tiny = (first: number) => {
      const { codes, scales } = nvfp4([...padded([1]), ...padded([first, -1e-6])], 2, 16)
      return [scales[1], ...block(codes, 16)]
    }
    assert.deepEqual(tiny(2e-6), [0, 7, 15, ...new Array(14).fill(0)])
    assert.deepEqual(tiny(2.2e-6), [1, 5, 11, ...new Array(14).fill(0)])
    assert.equal(tiny(2.17982e-6)[0], 0)
    assert.equal(tiny(2.1799e-6)[0], 1)
  })

  it('swizzled offsets', () => {
    const offsets: [number, number, number, number][] = [
      [0, 0, 4, 0],
      [1, 0, 4, 16],
      [31, 3, 4, 499],
      [32, 0, 4, 4],
      [96, 0, 4, 12],
      [127, 3, 4, 511],
      [0, 4, 8, 512],
      [128, 0, 8, 1024],
    ]
    for (const [row, col, cols, offset] of offsets) assert.equal(swizzleOffset(row, col, cols), offset)
    const scales = Uint8Array.from({ length: 130 * 6 }, (_, i) => (i % 255) + 1)
    const swizzled = swizzle(scales, 130, 6)
    assert.equal(swizzled.length, 256 * 8)
    assert.equal(swizzled.filter(byte => byte !== 0).length, 130 * 6)
    assert.deepEqual(unswizzle(swizzled, 130, 6), scales)
  })
})
