import type { LinearSite } from '../recipes/resolve.ts'
import type { Activation } from '../tensor/dtype.ts'

/** The shape of a model: the `model` section of a run's config. Source: docs/numerics.md, "Models". */
export interface ModelConfig {
  /** One character a block: M Mamba-2, * attention, - FFN. */
  readonly pattern: string
  /** Width of the residual stream. */
  readonly hidden: number
  readonly ffn: number
  /** Query heads. */
  readonly heads: number
  readonly kv_heads: number
  readonly head_dim: number
  readonly mamba_heads: number
  readonly mamba_head_dim: number
  /** Groups of heads that share B and C of the state space, and of channels that share a gated norm. */
  readonly groups: number
  readonly state: number
  /** Taps of the causal convolution. */
  readonly conv: number
  /** Tokens per chunk of the state space's scan. */
  readonly chunk: number
  readonly vocab: number
  /** Base of the rotary position embedding, or false for none. */
  readonly rope: number | false
  readonly activations: Activation
  /** Of RMSNorm. */
  readonly eps: number
  /** Standard deviation of linears and embedding; those that write to the residual stream have it divided by the root of the depth. */
  readonly init_std: number
  /** First and last blocks that recipes with sensitive blocks keep in BF16; absent: the recipe decides. */
  readonly bf16_blocks?: readonly [first: number, last: number] | undefined
  /** What the backward pass computes again instead of keeping: nothing (the default), or the inside of every block. Changes no number. */
  readonly recompute?: 'none' | 'block' | undefined
}

/** Derived sizes of a Mamba-2 mixer. */
export function mambaSizes(config: ModelConfig): { inner: number; conv: number; projection: number } {
  const inner = config.mamba_heads * config.mamba_head_dim
  const conv = inner + 2 * config.groups * config.state
  return { inner, conv, projection: inner + conv + config.mamba_heads }
}

/** Whether weights that enter products in BF16 keep their rounding between steps: not where memory is so short that blocks are recomputed. */
export const keepsCopies = ({ activations, recompute }: ModelConfig): boolean =>
  activations === 'bf16' && recompute !== 'block'

/** Whether images of weights are also kept as products of the backend read them, which takes more than the images. */
export const keepsPanels = ({ recompute }: ModelConfig): boolean => recompute !== 'block'

/** A linear layer: `y[.., rows] = x[.., cols] · weight[rows, cols]ᵀ`. */
export interface LinearShape extends LinearSite {
  readonly rows: number
  readonly cols: number
  /** The block does with more outputs than `rows` where a recipe's blocks want that. */
  readonly padded: boolean
}
