import type { FormatName } from '../formats/formats.ts'

/**
 * A recipe is data: how each operand of the three GEMMs of a linear layer is made, and for which layers and steps.
 *
 *   fprop   y[T, N]  = x[T, K] · w[N, K]ᵀ        a = x, b = w, contraction over K
 *   dgrad  dx[T, K]  = dy[T, N] · w[N, K]         a = dy, b = w, contraction over N
 *   wgrad  dw[N, K] += dy[T, N]ᵀ · x[T, K]        a = dy, b = x, contraction over T (tokens)
 *
 * Blocks of a quantised operand always lie along the contraction of the GEMM that reads it.
 */

export type { FormatName }

export interface Quantized {
  readonly format: FormatName
  /** `eden`: MS-EDEN, elements to nearest and an unbiased correction rounded stochastically into the block scale. */
  readonly round: 'nearest' | 'stochastic' | 'eden'
  /** One scale for a square tile (16x16, 32x32 or 128x128), so that both orientations share codes and scales. */
  readonly square?: true
  /** Quantise the dequantised image of fprop instead of the original values. */
  readonly of?: 'forward'
  /** Weights alone: quantise the FP32 weight itself instead of its BF16 rounding. */
  readonly source?: 'f32'
  /** Order of the operations of the NVFP4 block scale; default q6, the paper's. */
  readonly scaleOrder?: 'q6' | 'm6'
  /** Four-over-six: the better of two block scales by this error. */
  readonly fourOverSix?: 'mae' | 'mse'
  /** One outer FP32 scale per tensor (default) or per row. */
  readonly outer?: 'tensor' | 'row'
  /** Largest quotient aimed at, as a share of the format's largest value; default 1. 16/17 avoids saturation. */
  readonly headroom?: number
  /** FP8 scales rounded down to powers of two. */
  readonly pow2Scales?: true
  /** UE8M0 scales: round up (default, as TransformerEngine and the paper) or OCP v1.0's floor. */
  readonly mxScale?: 'up' | 'floor'
}

/**
 * `f32`, `bf16`: the values rounded to that type. `forward`: the image that fprop's rules describe for this tensor, without a
 * second rounding; it is made even where a later rule puts fprop itself in BF16. A GEMM of two quantised operands reads its
 * codes, so it must be square; beside an `f32` or `bf16` operand its dequantised values are read, whatever their blocks.
 */
export type Operand = 'f32' | 'bf16' | 'forward' | Quantized

export interface Hadamard {
  readonly size: 4 | 16 | 32 | 64 | 128
  /** `fixed`: one sign vector for the run; `fresh`: drawn for each GEMM and step; `none`: all plus. */
  readonly signs: 'fixed' | 'fresh' | 'none'
}

export interface Gemm {
  readonly a: Operand
  readonly b: Operand
  /** Rotation along the contraction, of both operands, so that it cancels in the product. */
  readonly hadamard?: Hadamard
}

export interface LinearRecipe {
  readonly fprop: Gemm
  readonly dgrad: Gemm
  readonly wgrad: Gemm
}

/** A step as a number, or as a share of all steps: `{ share: 0.82 }`. */
export type Step = number | { readonly share: number }

export interface Rule {
  /**
   * `all`; linear layers whose name matches `name` (a layer's name is like `layers.3.mixer.in_proj`; `*` matches any characters);
   * blocks by index, end exclusive: negative indices count from the end, fractions below 1 are shares of the depth; or the first
   * and last blocks that the model itself names as sensitive (`model.bf16_blocks`), these many or these shares where it names none.
   */
  readonly where:
    | 'all'
    | { readonly name: string }
    | { readonly blocks: readonly [start: number, end?: number] }
    | { readonly sensitive: readonly [first: number, last: number] }
  /** First step at which the rule holds, and the first at which it no longer does. */
  readonly from?: Step
  readonly to?: Step
  /** Replaces the GEMMs that it names; others stay as earlier rules set them. */
  readonly use: Partial<LinearRecipe>
}

/** Rules apply in order, later ones override earlier ones. The first must cover all layers and all three GEMMs. */
export interface Recipe {
  readonly name: string
  /** One line for tables and reports. */
  readonly title: string
  /** What the operands of the output layer, which is never quantised, are rounded to; default bf16. */
  readonly head?: 'f32' | 'bf16'
  readonly rules: readonly Rule[]
}
