import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { dequantizeMatrix } from '../src/formats/dequantize.ts'
import { type FormatName, formats } from '../src/formats/formats.ts'
import { rotate, signWords, unrotate } from '../src/formats/hadamard.ts'
import { decode, e2m1, e4m3, encodeStochastic } from '../src/formats/minifloat.ts'
import { Stream } from '../src/formats/philox.ts'
import { codeAt, type QuantizeOptions, quantizeMatrix } from '../src/formats/quantize.ts'

const rows = 16
const cols = 256
const random = new Stream(7, 0)
const x = Float32Array.from({ length: rows * cols }, () => random.normal())

/**
 * The mean over steps 1..n of x quantised and decoded, under rotations drawn afresh where `size` is given: its relative distance from x
 * at each n asked for, and the coefficient <mean, x> / <x, x> at the last.
 */
function averaged(
  options: QuantizeOptions,
  counts: number[],
  size?: number,
): { errors: number[]; coefficient: number } {
  const sum = new Float64Array(x.length)
  const errors: number[] = []
  let coefficient = 0
  for (let step = 1; step <= counts.at(-1)!; step++) {
    const address = [11, 13, step]
    const rotation = size && { size, signs: signWords('fresh', address, 77) }
    const z = rotation ? rotate(x, rows, cols, rotation) : x
    const back = dequantizeMatrix(quantizeMatrix(z, rows, cols, { ...options, random: address, stream: 5 }))
    const values = rotation ? unrotate(back, rows, cols, rotation) : back
    for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + values[i]!
    if (!counts.includes(step)) continue
    let [squares, power, product] = [0, 0, 0]
    for (let i = 0; i < x.length; i++) {
      squares += (sum[i]! / step - x[i]!) ** 2
      power += x[i]! ** 2
      product += (sum[i]! / step) * x[i]!
    }
    errors.push(Math.sqrt(squares / power))
    coefficient = product / power
  }
  return { errors, coefficient }
}

/** Whether the error falls as 1 / sqrt(n) over the counts, within a share. */
function fallsAsRoot(counts: number[], errors: number[], share: number): void {
  for (let i = 1; i < counts.length; i++) {
    const factor = errors[i - 1]! / errors[i]! / Math.sqrt(counts[i]! / counts[i - 1]!)
    assert.ok(
      Math.abs(factor - 1) < share,
      `from ${counts[i - 1]} to ${counts[i]} draws: ${errors[i - 1]}, ${errors[i]}`,
    )
  }
}

describe('stochastic rounding', () => {
  it('has the mean of the value, less the documented step / 512', () => {
    for (const format of [e2m1, e4m3]) {
      let bias = 0
      const trials = 2000
      for (let trial = 0; trial < trials; trial++) {
        const y = Math.fround(4 + 2 * random.uniform())
        const lower = format === e2m1 ? 4 : 4 + Math.floor((y - 4) * 2) / 2
        const step = format === e2m1 ? 2 : 0.5
        let mean = 0
        for (let r = 0; r < 256; r++) mean += decode(format, encodeStochastic(format, y, r)) / 256
        assert.ok(mean <= y && y - mean < step / 256, `${y} has the mean ${mean}`)
        assert.ok(mean >= lower)
        bias += (y - mean) / step / trials
      }
      assert.ok(Math.abs(bias - 1 / 512) < 1e-4, `${format.name}: ${bias}`)
    }
  })

  it('draws for short rows what it draws for rows padded with zeros', () => {
    const [lines, length, padded] = [8, 20, 32]
    const wide = new Float32Array(lines * padded)
    for (let r = 0; r < lines; r++) wide.set(x.subarray(r * length, (r + 1) * length), r * padded)
    for (const format of Object.keys(formats) as FormatName[]) {
      const options: QuantizeOptions = { format, round: 'stochastic', random: [1, 2, 3], stream: 4 }
      const codes = (values: Float32Array, cols: number) => {
        const image = quantizeMatrix(values, lines, cols, options)
        const rows = Array.from({ length: lines }, (_, r) => Array.from({ length }, (_, c) => r * cols + c))
        return rows.flat().map(i => codeAt(image.codes, formats[format].element.bits, i))
      }
      assert.deepEqual(codes(x.subarray(0, lines * length), length), codes(wide, padded), format)
    }
  })

  it('gradients with headroom are unbiased: the error of the mean falls as 1 / sqrt(n)', () => {
    const counts = [1, 4, 16, 64, 256]
    for (const format of ['nvfp4', 'mxfp4'] as const) {
      const { errors, coefficient } = averaged({ format, round: 'stochastic', headroom: 16 / 17 }, counts)
      fallsAsRoot(counts, errors, 0.1)
      assert.ok(Math.abs(coefficient - 1) < 0.002, `${format}: ${coefficient}`)
    }
  })

  it('MS-EDEN is unbiased under fresh rotations, at two thirds of the error', () => {
    const counts = [1, 4, 16, 64, 256]
    const eden = averaged({ format: 'nvfp4', round: 'eden' }, counts, 128)
    fallsAsRoot(counts, eden.errors, 0.1)
    assert.ok(Math.abs(eden.coefficient - 1) < 0.001, `${eden.coefficient}`)
    const plain = averaged({ format: 'nvfp4', round: 'stochastic', headroom: 16 / 17 }, [1])
    assert.ok(eden.errors[0]! < 0.7 * plain.errors[0]!, `${eden.errors[0]} and ${plain.errors[0]}`)
  })

  it('without headroom, saturation shrinks by 0.3 to 0.9 % and the error stops falling', () => {
    const { errors, coefficient } = averaged({ format: 'nvfp4', round: 'stochastic' }, [64, 256])
    assert.ok(coefficient > 0.991 && coefficient < 0.997, `${coefficient}`)
    assert.ok(errors[0]! / errors[1]! < 1.6, `${errors}`)
  })

  it('rounding to nearest repeats its error', () => {
    const { errors } = averaged({ format: 'nvfp4' }, [1, 8])
    assert.ok(Math.abs(errors[1]! / errors[0]! - 1) < 1e-9)
  })

  it('8-bit elements are unbiased as they are', () => {
    const counts = [1, 16, 64]
    for (const format of ['fp8', 'mxfp8', 'fp8-tensor'] as const)
      fallsAsRoot(counts, averaged({ format, round: 'stochastic' }, counts).errors, 0.1)
  })
})
