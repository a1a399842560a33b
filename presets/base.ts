import type { RunPreset } from '../src/config/schema.ts'

/** About 125 million weights. */
export const base = {
  name: 'base',
  steps: 20000,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-',
    hidden: 768,
    ffn: 3072,
    heads: 12,
    kv_heads: 4,
    head_dim: 64,
    mamba_heads: 32,
    mamba_head_dim: 48,
    groups: 4,
    state: 64,
    chunk: 64,
    vocab: 272,
    init_std: 0.032,
  },
  data: { sequence: 1024, batch: 64, micro_batch: 2 },
  optimizer: { lr: 8e-4 },
  checkpoint: { every: 500 },
  validation: { every: 500 },
} as const satisfies RunPreset

export const baseDense = {
  ...base,
  name: 'base-dense',
  model: {
    pattern: '*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-*-',
    hidden: 768,
    ffn: 3072,
    heads: 12,
    kv_heads: 4,
    head_dim: 64,
    rope: 10000,
    vocab: 272,
    init_std: 0.032,
  },
} as const satisfies RunPreset
