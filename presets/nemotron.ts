import type { RunPreset } from '../src/config/schema.ts'

/**
 * The models of the paper (arXiv 2509.25149, appendix A; docs/numerics.md, "Models" and "Training hyper-parameters and ablations"). Not stated
 * there and chosen here: warm-up; the initial deviation, the rotary base and the vocabulary of the 1.2B. Their tokenizer is not part of this project:
 * the vocabulary fixes the shape, `data.tokenizer` what is read.
 */

const data = { sequence: 8192, micro_batch: 1 } as const
const schedule = { warmup: 0.002, final: 0.01 } as const
const checkpoint = { every: 1000 } as const
const validation = { every: 1000 } as const

/** Nemotron-Nano-12B-v2-Base with the head width of the released weights; 10 trillion tokens, first 2 and last 8 blocks in BF16. */
export const nemotronNano12b = {
  name: 'nemotron-nano-12b',
  steps: 1658564,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-',
    hidden: 5120,
    ffn: 20480,
    heads: 40,
    kv_heads: 8,
    head_dim: 128,
    mamba_heads: 128,
    mamba_head_dim: 80,
    groups: 8,
    state: 128,
    vocab: 131072,
    init_std: 0.0125,
    bf16_blocks: [2, 8],
    recompute: 'block',
  },
  data: { ...data, batch: 736 },
  optimizer: { lr: 4.5e-4 },
  schedule: { ...schedule, decay: 0.2 },
  checkpoint,
  validation,
} as const satisfies RunPreset

/** Nemotron-H-8B with the 8 key/value heads of the released config; 1 trillion tokens, last 8 blocks in BF16. */
export const nemotronH8b = {
  name: 'nemotron-h-8b',
  steps: 158946,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-',
    hidden: 4096,
    ffn: 21504,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    mamba_heads: 128,
    mamba_head_dim: 64,
    groups: 8,
    state: 128,
    vocab: 131072,
    init_std: 0.014,
    bf16_blocks: [0, 8],
    recompute: 'block',
  },
  data: { ...data, batch: 768 },
  optimizer: { lr: 8e-4 },
  schedule: { ...schedule, decay: 0.15 },
  checkpoint,
  validation,
} as const satisfies RunPreset

/** The 1.2B transformer of the ablations: 20 layers of attention and FFN, the last 4 of them in BF16; 1 trillion tokens. */
export const nemotron1b = {
  name: 'nemotron-1.2b',
  steps: 158946,
  recipe: 'nvfp4',
  model: {
    pattern: '*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-',
    hidden: 2048,
    ffn: 6144,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    rope: 10000,
    vocab: 131072,
    init_std: 0.02,
    bf16_blocks: [0, 8],
  },
  data: { ...data, batch: 768 },
  optimizer: { lr: 1.2e-3 },
  schedule: { ...schedule, decay: 0.15 },
  checkpoint,
  validation,
} as const satisfies RunPreset

/** A hybrid of the size of that transformer, in the proportions of the 8B: not a model of the paper. */
export const hybrid1b = {
  ...nemotron1b,
  name: 'hybrid-1.2b',
  model: {
    pattern: 'M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-',
    hidden: 2048,
    ffn: 8192,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    mamba_heads: 64,
    mamba_head_dim: 64,
    groups: 8,
    state: 128,
    vocab: 50304,
    init_std: 0.02,
    bf16_blocks: [0, 5],
  },
} as const satisfies RunPreset
