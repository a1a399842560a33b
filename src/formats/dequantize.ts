import { wantArgument, wantFormat, wantObject } from './arguments.ts'
import { formats } from './formats.ts'
import { decode, e4m3 } from './minifloat.ts'
import { codeAt, type QuantizedMatrix } from './quantize.ts'
import { decodeUe8m0 } from './ue8m0.ts'

/**
 * From codes back to values, every operation in FP32:
 *
 *   with a tensor scale     value(code) * ((scale * amax) * (1 / bound))
 *   without                 value(code) * scale
 *
 * Source: docs/numerics.md, "Dequantisation".
 */
const fround = Math.fround

/** Where the scale of element (row, col) lies in `scales`. */
export function scaleIndex({ format: name, rows, cols, scales }: QuantizedMatrix, row: number, col: number): number {
  const { block } = formats[name]
  if (!Number.isFinite(block)) return 0
  const across = Math.ceil(cols / block)
  const perRow = scales.length === rows * across
  return (perRow ? row : Math.floor(row / block)) * across + Math.floor(col / block)
}

/** The value of a stored block scale, without the outer scale. */
export function scaleValue({ format: name, scales }: QuantizedMatrix, index: number): number {
  const stored = scales[index]!
  const kind = formats[name].scale
  return kind === 'e4m3' ? decode(e4m3, stored) : kind === 'ue8m0' ? decodeUe8m0(stored) : stored
}

/** @throws TypeError or RangeError naming the part of a quantised matrix that is missing, of another type or too short */
export function checkMatrix(matrix: QuantizedMatrix, name: string): void {
  wantObject(name, matrix)
  wantFormat(`${name}.format`, matrix.format)
  const { rows, cols, codes, scales, amax, outer } = matrix
  const { block, element, tensorScale } = formats[matrix.format]
  const isWhole = !Number.isFinite(block)
  const parts = {
    codes: [codes, Math.ceil((rows * cols * element.bits) / 8)],
    scales: [scales, isWhole ? 1 : Math.ceil(rows / block) * Math.ceil(cols / block)],
    amax: [amax, tensorScale ? (outer === 'row' ? rows : 1) : 0],
  } as const
  for (const [part, [array, least]] of Object.entries(parts)) {
    wantArgument(ArrayBuffer.isView(array), `${name}.${part}`, array, 'a typed array')
    if (!(array.length >= least))
      throw new RangeError(`${name}.${part}: found ${array.length} elements, wanted ${least} for ${rows} x ${cols}`)
  }
}

/**
 * Values [rows, cols] of a quantised matrix.
 * @throws TypeError or RangeError naming the part that is missing or too short
 */
export function dequantizeMatrix(matrix: QuantizedMatrix): Float32Array {
  checkMatrix(matrix, 'matrix')
  const { rows, cols, codes, amax, outer, bound } = matrix
  const { element, tensorScale } = formats[matrix.format]
  const values = new Float32Array(rows * cols)
  const inverse = fround(1 / bound)
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < cols; c++) {
      let scale = scaleValue(matrix, scaleIndex(matrix, r, c))
      if (tensorScale) scale = fround(fround(scale * amax[outer === 'row' ? r : 0]!) * inverse)
      values[r * cols + c] = decode(element, codeAt(codes, element.bits, r * cols + c)) * scale
    }
  return values
}
