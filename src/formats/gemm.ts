import { checkMatrix, scaleIndex, scaleValue } from './dequantize.ts'
import { formats } from './formats.ts'
import { decode } from './minifloat.ts'
import { codeAt, type QuantizedMatrix } from './quantize.ts'

/**
 * The product of two quantised matrices along their columns, C[m, n] = sum_k A[m, k] * B[n, k], as all three GEMMs of a linear layer are:
 *
 *   acc   = sum over blocks, in order, of (sA * sB) * dot         dot = sum of value(a) * value(b) over the block
 *   alpha = (amaxA * amaxB) / (boundA * boundB)
 *   C     = alpha * acc
 *
 * Every operation is one FP32 operation. For E2M1 the dot of a block and its product with E4M3 scales are exact, so that only the sum over
 * blocks rounds. Scales of blocks longer than those of the other operand apply to each of its blocks.
 * Source: docs/numerics.md, "GEMM semantics".
 */
export function multiplyQuantized(a: QuantizedMatrix, b: QuantizedMatrix): Float32Array {
  checkMatrix(a, 'a')
  checkMatrix(b, 'b')
  if (a.cols !== b.cols) throw new RangeError(`a contraction of ${a.cols} columns with ${b.cols} columns`)
  const fround = Math.fround
  const inner = a.cols
  const block = Math.min(formats[a.format].block, formats[b.format].block, inner)
  const left = elementsOf(a)
  const right = elementsOf(b)
  const product = new Float32Array(a.rows * b.rows)
  for (let m = 0; m < a.rows; m++)
    for (let n = 0; n < b.rows; n++) {
      let acc = 0
      for (let k = 0; k < inner; k += block) {
        let dot = 0
        for (let i = k; i < Math.min(k + block, inner); i++)
          dot = fround(dot + fround(left[m * inner + i]! * right[n * inner + i]!))
        const scale = fround(scaleValue(a, scaleIndex(a, m, k)) * scaleValue(b, scaleIndex(b, n, k)))
        acc = fround(acc + fround(scale * dot))
      }
      product[m * b.rows + n] = fround(alphaOf(a, m, b, n) * acc)
    }
  return product
}

/** The outer scale of a row of `a` times that of a row of `b`, divided rather than multiplied by a reciprocal. */
export function alphaOf(a: QuantizedMatrix, row: number, b: QuantizedMatrix, column: number): number {
  const of = (matrix: QuantizedMatrix, index: number): number =>
    formats[matrix.format].tensorScale ? matrix.amax[matrix.outer === 'row' ? index : 0]! : 1
  return Math.fround(Math.fround(of(a, row) * of(b, column)) / Math.fround(a.bound * b.bound))
}

function elementsOf({ format, rows, cols, codes }: QuantizedMatrix): Float32Array {
  const { element } = formats[format]
  const values = new Float32Array(rows * cols)
  for (let i = 0; i < values.length; i++) values[i] = decode(element, codeAt(codes, element.bits, i))
  return values
}
