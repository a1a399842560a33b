import type { RunPreset } from '../src/config/schema.ts'

/** About 30 million weights. */
export const small = {
  name: 'small',
  steps: 4000,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-M-M*-M-M-M*-M-',
    hidden: 512,
    ffn: 2048,
    heads: 8,
    kv_heads: 2,
    head_dim: 64,
    mamba_heads: 16,
    mamba_head_dim: 64,
    groups: 2,
    state: 64,
    chunk: 64,
    vocab: 272,
    init_std: 0.04,
  },
  data: { sequence: 512, batch: 32, micro_batch: 4 },
  optimizer: { lr: 1.2e-3 },
  checkpoint: { every: 200 },
  validation: { every: 200 },
} as const satisfies RunPreset

export const smallDense = {
  ...small,
  name: 'small-dense',
  model: {
    pattern: '*-*-*-*-*-*-*-*-*-*-',
    hidden: 512,
    ffn: 2048,
    heads: 8,
    kv_heads: 4,
    head_dim: 64,
    rope: 10000,
    vocab: 272,
    init_std: 0.04,
  },
} as const satisfies RunPreset
