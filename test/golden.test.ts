import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { multiplyQuantized } from '../src/formats/gemm.ts'
import { rotate, signWords, transpose } from '../src/formats/hadamard.ts'
import { type QuantizeOptions, quantizeMatrix } from '../src/formats/quantize.ts'
import { cases, floats, same, tensorOf } from './golden_vectors.ts'

/** Vectors made by NVIDIA's own reference quantisers (TransformerEngine, see docs/numerics.md); every byte must agree, sign of zero included. */
describe('golden vectors', () => {
  it('nvfp4: q6 and m6, 1x16 and 16x16, as it is and transposed, with and without rotation', () => {
    for (const golden of cases('nvfp4', 168)) {
      const { rows, cols, dtype } = golden
      const x = floats(golden, 'x')
      const options: QuantizeOptions = {
        format: 'nvfp4',
        scaleOrder: golden.scale_order,
        square: golden.tile === '16x16',
        source: dtype,
      }
      const image = quantizeMatrix(x, rows, cols, options)
      same(golden, 'codes', image.codes)
      same(golden, 'scales', image.scales)
      same(golden, 'amax', image.amax.subarray(0, 1))
      let turned = transpose(x, rows, cols)
      if (golden.rht_on_transpose)
        turned = rotate(turned, cols, rows, { size: 16, signs: signWords('fixed'), bf16: dtype === 'bf16' })
      const imageT = quantizeMatrix(turned, cols, rows, options)
      same(golden, 'codes_t', imageT.codes)
      same(golden, 'scales_t', imageT.scales)
      same(golden, 'amax_t', imageT.amax.subarray(0, 1))
    }
  })

  it('nvfp4 with four-over-six: MAE and MSE, 1x16 and 16x16', () => {
    for (const golden of cases('nvfp4_4over6', 96)) {
      const fourOverSix = golden.error === 'MAE' ? 'mae' : 'mse'
      const square = golden.tile === '16x16'
      const image = quantizeMatrix(floats(golden, 'x'), golden.rows, golden.cols, {
        format: 'nvfp4',
        fourOverSix,
        square,
      })
      same(golden, 'codes', image.codes)
      same(golden, 'scales', image.scales)
      same(golden, 'amax', image.amax.subarray(0, 1))
      assert.equal(image.bound, 1536)
    }
  })

  it('fp8: 1x128 and 128x128, FP32 and power-of-two scales', () => {
    for (const golden of cases('fp8_block', 28)) {
      const image = quantizeMatrix(floats(golden, 'x'), golden.rows, golden.cols, {
        format: 'fp8',
        square: golden.tile === '128x128',
        pow2Scales: golden.pow2_scales,
        source: golden.dtype,
      })
      same(golden, 'codes', image.codes)
      same(golden, 'scales', image.scales)
    }
  })

  it('linear: the three GEMMs of the nvfp4 recipe without stochastic rounding', () => {
    for (const golden of cases('linear', 4)) {
      const { tokens, in_features: inner, out_features: outer } = golden
      const options: QuantizeOptions = { format: 'nvfp4', scaleOrder: golden.scale_order }
      const x = floats(golden, 'x')
      const w = floats(golden, 'w')
      const dy = floats(golden, 'dy')
      const alongTokens = (values: Float32Array, features: number) => {
        const turned = transpose(values, tokens, features)
        const rotated = rotate(turned, features, tokens, { size: 16, signs: signWords('fixed'), bf16: true })
        return quantizeMatrix(rotated, features, tokens, options)
      }
      const rowsOf = (values: Float32Array, cols: number) => quantizeMatrix(values, tokens, cols, options)
      same(
        golden,
        'y',
        multiplyQuantized(rowsOf(x, inner), quantizeMatrix(w, outer, inner, { ...options, square: true })),
      )
      same(golden, 'dw', multiplyQuantized(alongTokens(dy, outer), alongTokens(x, inner)))
      if (outer === 80) {
        assert.equal(tensorOf(golden, 'dx'), undefined)
        continue
      }
      const turned = quantizeMatrix(transpose(w, outer, inner), inner, outer, { ...options, square: true })
      same(golden, 'dx', multiplyQuantized(rowsOf(dy, outer), turned))
    }
  })
})
