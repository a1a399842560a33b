/**
 * A recipe is data: how each operand of the three GEMMs of a linear layer is made, and for which layers and steps.
 *
 *   fprop   y[T, N]  = x[T, K] · w[N, K]ᵀ        a = x, b = w, contraction over K
 *   dgrad  dx[T, K]  = dy[T, N] · w[N, K]         a = dy, b = w, contraction over N
 *   wgrad  dw[N, K] += dy[T, N]ᵀ · x[T, K]        a = dy, b = x, contraction over T (tokens)
 *
 * Blocks of a quantised operand always lie along the contraction of the GEMM that reads it.
 */

/** A row of the table of formats (src/formats). */
export type FormatName = 'nvfp4' | 'mxfp4' | 'mxfp8' | 'fp8' | 'fp8-tensor'

export interface Quantized {
  readonly format: FormatName
  /** `eden`: MS-EDEN, elements to nearest and an unbiased correction rounded stochastically into the block scale. */
  readonly round: 'nearest' | 'stochastic' | 'eden'
  /** One scale for a square tile (16x16, 32x32 or 128x128), so that both orientations share codes and scales. */
  readonly square?: true
  /** Quantise the dequantised image of fprop instead of the original values. */
  readonly of?: 'forward'
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

/** `forward`: the very codes of fprop's operand, no second rounding; they must be square. They are made even if fprop is in BF16. */
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
   * or blocks by index, end exclusive: negative indices count from the end, fractions below 1 are shares of the depth.
   */
  readonly where: 'all' | { readonly name: string } | { readonly blocks: readonly [number, number?] }
  /** First step at which the rule holds, and the first at which it no longer does. */
  readonly from?: Step
  readonly to?: Step
  /** Replaces the GEMMs that it names; others stay as earlier rules set them. */
  readonly use: Partial<LinearRecipe>
}

/** Rules apply in order, later ones override earlier ones. The first must cover all layers and all three GEMMs. */
export interface Recipe {
  readonly name: string
  /** One line for `presets` and reports. */
  readonly title: string
  readonly rules: readonly Rule[]
}
