import { dequantizeMatrix } from '../../formats/dequantize.ts'
import { type FormatName, formats } from '../../formats/formats.ts'
import { transpose } from '../../formats/hadamard.ts'
import type { QuantizedMatrix } from '../../formats/quantize.ts'
import {
  type Args,
  type Case,
  type Dims,
  defineKernel,
  f32,
  i32,
  input,
  type Kernel,
  output,
} from '../../tensor/kernel.ts'

/**
 * From an image [rows, cols] back to values, rounded to the dtype of y (docs/numerics.md, "Dequantisation"):
 *
 *   with a tensor scale    y = value(code) * fp32(fp32(scale * amax) * fp32(1 / bound))         without    y = value(code) * scale
 *
 * `outer` 0 leaves the tensor scale out, which makes NVFP4 exact in BF16; 1 applies amax[0], 2 one amax for each row. FP32 scales are
 * [blocks, rows], [rows/128, blocks] of square tiles, or [1]: their shape tells.
 */
interface DequantizeValues {
  readonly y: Float32Array
  readonly codes: Uint8Array
  readonly scales: Uint8Array | Float32Array
  readonly amax?: Float32Array
  readonly bound?: number
  readonly outer?: number
}

function dequantizeKernel(name: FormatName): Kernel {
  const { element, block, scale, tensorScale } = formats[name]
  const whole = !Number.isFinite(block)
  const scales = whole
    ? input('f32', 1)
    : scale === 'f32'
      ? input('f32', 'scale_lines', 'scale_width')
      : input('u8', 'rows', `cols/${block}`)
  return defineKernel<Args>({
    name: `dequantize_${name.replace('-', '_')}`,
    args: {
      y: output('float', 'rows', 'cols'),
      codes: input('u8', 'rows', element.bits === 4 ? 'cols/2' : 'cols'),
      scales,
      ...(tensorScale ? { amax: input('f32', 'amaxes'), bound: f32, outer: i32 } : {}),
    },
    reference(values, dims) {
      const { y, codes, scales, amax, bound, outer } = values as unknown as DequantizeValues
      const matrix = { format: name, rows: dims.rows!, cols: dims.cols!, codes, scales }
      const blockByBlock = dims.scale_width === matrix.rows && dims.scale_lines === Math.ceil(matrix.cols / block)
      const lines = blockByBlock ? transpose(scales as Float32Array, dims.scale_lines!, matrix.rows) : scales
      const rowOf = (r: number): QuantizedMatrix => {
        const across = whole ? 1 : Math.ceil(matrix.cols / block)
        const line = dims.scale_width && !blockByBlock ? Math.floor(r / block) : r
        return {
          ...matrix,
          rows: 1,
          codes: codes.subarray((r * codes.length) / matrix.rows, ((r + 1) * codes.length) / matrix.rows),
          scales: whole ? scales : lines.subarray(line * across, (line + 1) * across),
          amax: Float32Array.of(outer === 0 ? 1 : (amax?.[outer === 2 ? r : 0] ?? 1)),
          outer: 'tensor',
          bound: outer === 0 ? 1 : (bound ?? 1),
        }
      }
      for (let r = 0; r < matrix.rows; r++) y.set(dequantizeMatrix(rowOf(r)), r * matrix.cols)
    },
    cases: cases(name),
    tolerance: 0,
  })
}

function cases(name: FormatName): Case[] {
  const { block, scale, tensorScale } = formats[name]
  const list: Case[] = []
  for (const [rows, cols] of [
    [3, 96],
    [130, 160],
    // As many rows as a row has long blocks: only the lines of FP32 scales tell tiles from rows.
    [2, 160],
  ] as const)
    for (const outer of tensorScale ? [0, 1, 2] : [1]) {
      const dims: Dims = { rows, cols, ...(tensorScale ? { amaxes: outer === 2 ? rows : 2 } : {}) }
      if (scale === 'f32' && Number.isFinite(block))
        for (const [scale_lines, scale_width] of [
          [Math.ceil(cols / 128), rows],
          [Math.ceil(rows / 128), Math.ceil(cols / 128)],
        ] as const)
          list.push({ dims: { ...dims, scale_lines, scale_width } })
      else list.push({ dims, ...(tensorScale ? { scalars: { bound: 2688, outer } } : {}) })
    }
  return list
}

/** The kernel of each format. */
export const dequantize = Object.fromEntries(
  (Object.keys(formats) as FormatName[]).map(name => [name, dequantizeKernel(name)]),
) as Readonly<Record<FormatName, Kernel>>
