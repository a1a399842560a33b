import { e2m1, e4m3, type MiniFloat } from './minifloat.ts'

/**
 * The table of block formats. A quantised matrix is elements and scales:
 *
 *   value[r, c] = element[r, c] * scale[r, c / block] * (amax / bound, where the format has a tensor scale)
 *
 * Everything that shared code must know of a format is a property of its row. Source: docs/numerics.md.
 */
export interface NumberFormat {
  readonly element: MiniFloat
  /** Consecutive elements of a row that share a scale; Infinity: the whole matrix does. */
  readonly block: number
  /** What a block scale is stored as: an E4M3 or UE8M0 code, or an FP32. */
  readonly scale: 'e4m3' | 'ue8m0' | 'f32'
  /** Whether an outer FP32 scale, amax / bound, multiplies everything. */
  readonly tensorScale: boolean
  /** The scale of a square tile is stored for each row of the tile, as if the blocks were 1 x block. */
  readonly squareScalePerRow: boolean
}

export type FormatName = 'nvfp4' | 'mxfp4' | 'mxfp8' | 'fp8' | 'fp8-tensor'

export const formats: Readonly<Record<FormatName, NumberFormat>> = {
  nvfp4: { element: e2m1, block: 16, scale: 'e4m3', tensorScale: true, squareScalePerRow: true },
  mxfp4: { element: e2m1, block: 32, scale: 'ue8m0', tensorScale: false, squareScalePerRow: true },
  mxfp8: { element: e4m3, block: 32, scale: 'ue8m0', tensorScale: false, squareScalePerRow: true },
  fp8: { element: e4m3, block: 128, scale: 'f32', tensorScale: false, squareScalePerRow: false },
  'fp8-tensor': {
    element: e4m3,
    block: Number.POSITIVE_INFINITY,
    scale: 'f32',
    tensorScale: false,
    squareScalePerRow: false,
  },
}
