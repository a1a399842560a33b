import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { decodeBf16, roundBf16 } from '../src/formats/bf16.ts'
import { e2m1, e4m3 } from '../src/formats/minifloat.ts'
import { codeAt } from '../src/formats/quantize.ts'
import { encodeUp } from '../src/formats/ue8m0.ts'
import { normals, nvfp4 } from './formats_vectors.ts'

const { fround } = Math
/** Of E4M3, from 0 to 448. */
const scales = e4m3.values.subarray(0, 0x7f)

/** What docs/numerics.md says of the formats and kernels rely on, over all codes or very many values. */
describe('facts', () => {
  it('a code times its block scale is exact in BF16', () => {
    for (const scale of scales)
      for (const value of e2m1.values) assert.equal(roundBf16(value * scale), value * scale, `${value} * ${scale}`)
  })

  it('both scales of a block times its dot product are exact in FP32, with any dot product', () => {
    for (let quarters = 1; quarters <= 2304; quarters += quarters < 64 ? 1 : 37)
      for (let i = 1; i < scales.length; i++)
        for (let j = 1; j <= i; j += 3) {
          const product = fround(scales[i]! * scales[j]!)
          const term = (product * quarters) / 4
          if (product !== scales[i]! * scales[j]! || fround(term) !== term) assert.fail(`${quarters} ${i} ${j}`)
        }
  })

  it('the scale of MX is the least power of two not below the quotient, for every BF16', () => {
    for (const largest of [6, 448])
      for (let bits = 0x0080; bits < 0x7f80; bits++) {
        const amax = decodeBf16(bits)
        const code = encodeUp(fround(amax * fround(1 / largest)))
        const fits = (c: number) => amax <= largest * 2 ** (c - 127)
        if (!fits(code) || (code > 0 && fits(code - 1))) assert.fail(`${amax} / ${largest}: ${code}`)
      }
  })

  it('the largest element of a block becomes 6 where the scale is no subnormal, else at least 3', () => {
    const x = normals(256 * 256, 8).map((value, i) => value * 10 ** -((i >> 4) % 7))
    for (const scaleOrder of ['q6', 'm6'] as const) {
      const { codes, scales: stored } = nvfp4(x, 256, 256, { scaleOrder })
      let [normal, subnormal] = [0, 0]
      for (let block = 0; block < stored.length; block++) {
        if (stored[block] === 0) continue
        let most = 0
        for (let i = 16 * block; i < 16 * block + 16; i++) most = Math.max(most, codeAt(codes, 4, i) & 7)
        if (stored[block]! >= 8) normal++
        else subnormal++
        assert.ok(e2m1.values[most]! >= (stored[block]! >= 8 ? 6 : 3), `block ${block}`)
      }
      assert.ok(normal > 1000 && subnormal > 100, `${normal} and ${subnormal}`)
    }
  })

  it('the orders q6 and m6 differ in about one of a thousand scales of BF16 values, by one code', () => {
    const x = normals(512 * 1024, 3).map(roundBf16)
    let differing = 0
    for (let tensor = 0; tensor < 512; tensor++) {
      const values = x.subarray(1024 * tensor, 1024 * (tensor + 1))
      const [q6, m6] = (['q6', 'm6'] as const).map(scaleOrder => nvfp4(values, 16, 64, { scaleOrder }).scales)
      for (let i = 0; i < 64; i++) {
        const apart = Math.abs(q6![i]! - m6![i]!)
        assert.ok(apart <= 1)
        differing += apart
      }
    }
    const share = differing / (512 * 64)
    assert.ok(share > 0.0003 && share < 0.002, `${differing} scales`)
  })
})
