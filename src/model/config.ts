import type { Activation } from '../tensor/dtype.ts'

/**
 * The dimensions of a hybrid language model. Sizes are element counts; a size that no block of `pattern` uses may be 0.
 * Source: docs/numerics.md, "Models".
 */
export interface ModelConfig {
  /** One character a block: `M` Mamba-2, `*` causal grouped-query attention, `-` squared-ReLU FFN. */
  readonly pattern: string
  /** Width of the residual stream. */
  readonly hidden: number
  /** Inner width of an FFN block. */
  readonly ffn: number
  /** Query heads, key/value heads and their width. */
  readonly heads: number
  readonly kv_heads: number
  readonly head_dim: number
  /** Mamba-2: the inner width is `mamba_heads * mamba_head_dim`. */
  readonly mamba_heads: number
  readonly mamba_head_dim: number
  /** Mamba-2: groups of heads that share B and C, and the slices of the gated norm. */
  readonly groups: number
  /** Mamba-2: width of the state of one head. */
  readonly state: number
  /** Mamba-2: taps of the causal convolution. */
  readonly conv: number
  /** Mamba-2: positions in a chunk of the scan. */
  readonly chunk: number
  /** Rows of the embedding and of the head, padding included. */
  readonly vocab: number
  /** Base of the rotary position embedding, or false for none. */
  readonly rope: number | false
  readonly activations: Activation
  /** Added to the mean square in every RMSNorm. */
  readonly eps: number
  /** Standard deviation of the initial weights of linear layers and of the embedding. */
  readonly init_std: number
}
