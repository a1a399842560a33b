import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { dequantize, dequantizeMatrix, multiplyQuantized, quantize, quantizeMatrix } from '../src/index.ts'

/** Programs without types use the library too: a wrong argument is named, with what was found and what is wanted. */

const values = new Float32Array(64).fill(1)
const q = quantize(values, [4, 16], { format: 'nvfp4' })
const formats = 'one of nvfp4, '

describe('arguments of the library', () => {
  const nvfp4 = (options: object) => [values, [4, 16], { format: 'nvfp4', ...options }]
  const cases: [call: (...args: never[]) => unknown, args: unknown[], message: string][] = [
    [quantize, [], 'values: found undefined, wanted a Float32Array'],
    [quantize, [[1, 2]], 'values: found an Array, wanted a Float32Array'],
    [quantize, [new Float64Array(64)], 'values: found a Float64Array, wanted a Float32Array'],
    [quantize, [values], 'shape: found undefined, wanted rows and columns, [rows, cols]'],
    [quantize, [values, [64]], 'shape: found an Array, wanted rows and columns, [rows, cols]'],
    [quantize, [values, [4, 16]], 'options: found undefined, wanted an object'],
    [quantize, [values, [4, 16], {}], `options.format: found undefined, wanted ${formats}`],
    [quantize, nvfp4({ format: 'fp3' }), `options.format: found "fp3", wanted ${formats}`],
    [quantize, nvfp4({ format: 'constructor' }), `options.format: found "constructor", wanted ${formats}`],
    [quantize, nvfp4({ round: 'up' }), 'options.round: found "up", wanted one of nearest, stochastic, eden'],
    [quantize, nvfp4({ scaleOrder: 'm7' }), 'options.scaleOrder: found "m7", wanted one of q6, m6'],
    [quantize, nvfp4({ fourOverSix: true }), 'options.fourOverSix: found true, wanted one of mae, mse'],
    [quantize, nvfp4({ outer: 'column' }), 'options.outer: found "column", wanted one of tensor, row'],
    [quantize, nvfp4({ source: 'f16' }), 'options.source: found "f16", wanted one of f32, bf16'],
    [quantize, nvfp4({ rotate: 16 }), 'options.rotate: found 16, wanted an object'],
    [
      quantize,
      nvfp4({ rotate: { size: 16, signs: 'new' } }),
      'options.rotate.signs: found "new", wanted one of fixed, fresh, none',
    ],
    [quantize, nvfp4({ amax: [1] }), 'options.amax: found an Array, wanted a Float32Array'],
    [quantizeMatrix, [values, '4', 16, { format: 'nvfp4' }], 'rows: found "4", wanted a whole number from 0'],
    [dequantize, [], 'matrix: found undefined, wanted an object'],
    [dequantize, [{}], `matrix.format: found undefined, wanted ${formats}`],
    [dequantize, [{ ...q, layout: undefined }], 'tensor.layout: found undefined, wanted an object'],
    [dequantizeMatrix, [{ ...q, scales: undefined }], 'matrix.scales: found undefined, wanted a typed array'],
    [dequantizeMatrix, [{ ...q, codes: q.codes.subarray(1) }], 'matrix.codes: found 31 elements, wanted 32 for 4 x 16'],
    [multiplyQuantized, [q, {}], `b.format: found undefined, wanted ${formats}`],
  ]
  for (const [call, args, message] of cases)
    it(`${call.name}: ${message}`, () => {
      assert.throws(
        () => call(...(args as never[])),
        (error: Error) =>
          (error instanceof TypeError || error instanceof RangeError) && error.message.startsWith(message),
      )
    })
})
