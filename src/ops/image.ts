import type { FormatName } from '../recipes/recipe.ts'
import type { Tensor } from '../tensor/tensor.ts'

/**
 * A quantised operand as a GEMM reads it: [rows, cols] with blocks along cols, the contraction.
 *
 *   value[r, c] = code[r, c] * scale[r, c / block] * amax / bound        (formats without a tensor scale: code * scale)
 */
export interface Image {
  readonly format: FormatName
  readonly rows: number
  readonly cols: number
  /** u8, packed two to a byte (low nibble first) for 4-bit elements: [rows, cols/2] or [rows, cols]. */
  readonly codes: Tensor
  /** Decode scales: u8 [rows, cols/16] E4M3, u8 [rows, cols/32] UE8M0, f32 [...] for FP8. */
  readonly scales: Tensor
  /** f32[2]: largest magnitude, and 1 if a value was not finite; or f32[rows] with one outer scale per row. */
  readonly amax: Tensor
  /** Largest element times largest block scale: 2688, or 1536 under four-over-six. */
  readonly bound: number
}
