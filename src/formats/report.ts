import { dequantizeMatrix, scaleIndex, scaleValue } from './dequantize.ts'
import { type FormatName, formats } from './formats.ts'
import { codeAt, type QuantizedMatrix } from './quantize.ts'

/**
 * What quantisation did to a matrix: x the values that were quantised, v those that the codes stand for. Values that are not finite are
 * counted and left out of everything else but the histogram.
 *
 *   snr = 10 log10(sum x^2 / sum (v - x)^2)        relative error = mean of |v - x| / |x| over x != 0
 */
export interface QuantizationReport {
  readonly format: FormatName
  readonly rows: number
  readonly cols: number
  readonly amax: number
  /** In dB; Infinity without error. */
  readonly snr: number
  readonly relativeError: number
  /** Share of values, not zero themselves, that became zero. */
  readonly flushed: number
  /** Share of values beyond the largest element under their scale. */
  readonly saturated: number
  /** Share of scales that are zero. */
  readonly zeroScales: number
  /** Number of values that are NaN or infinite. */
  readonly notFinite: number
  /** How often each code occurs, by code. */
  readonly codes: readonly number[]
}

/**
 * `values` are those that `matrix` was quantised from, rotated if it was. Only the upper left [rows, cols] are looked at, so that padding is
 * left out.
 */
export function reportOn(
  values: Float32Array,
  matrix: QuantizedMatrix,
  rows = matrix.rows,
  cols = matrix.cols,
): QuantizationReport {
  const { element, tensorScale } = formats[matrix.format]
  const back = dequantizeMatrix(matrix)
  const codes = new Array<number>(2 ** element.bits).fill(0)
  const total = { power: 0, noise: 0, relative: 0, nonzero: 0, flushed: 0, saturated: 0, notFinite: 0 }
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < cols; c++) {
      const i = r * matrix.cols + c
      const x = values[i]!
      const code = codeAt(matrix.codes, element.bits, i)
      codes[code] = codes[code]! + 1
      if (!Number.isFinite(x)) {
        total.notFinite++
        continue
      }
      const error = back[i]! - x
      total.power += x * x
      total.noise += error * error
      if (x === 0) continue
      total.nonzero++
      total.relative += Math.abs(error / x)
      if (back[i] === 0) total.flushed++
      const outer = tensorScale ? matrix.amax[matrix.outer === 'row' ? r : 0]! / matrix.bound : 1
      const largest = element.max * scaleValue(matrix, scaleIndex(matrix, r, c)) * outer
      // A value that only the rounding of FP32 scales puts beyond the largest does not count.
      if (Math.abs(x) > largest * (1 + 2 ** -20)) total.saturated++
    }
  let zeroScales = 0
  for (let i = 0; i < matrix.scales.length; i++) if (scaleValue(matrix, i) === 0) zeroScales++
  const count = rows * cols
  return {
    format: matrix.format,
    rows,
    cols,
    amax: matrix.amax.subarray(0, matrix.outer === 'row' ? matrix.rows : 1).reduce((a, b) => Math.max(a, b), 0),
    snr: total.noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(total.power / total.noise),
    relativeError: total.nonzero ? total.relative / total.nonzero : 0,
    flushed: total.flushed / count,
    saturated: total.saturated / count,
    zeroScales: zeroScales / matrix.scales.length,
    notFinite: total.notFinite,
    codes,
  }
}
