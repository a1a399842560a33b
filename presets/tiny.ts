import type { RunPreset } from '../src/config/schema.ts'

/** Under a million weights: learns to spell in about 100 seconds on two cores. */
export const tiny = {
  name: 'tiny',
  steps: 1200,
  recipe: 'nvfp4',
  model: {
    pattern: 'M-M-M*M-',
    hidden: 128,
    ffn: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    mamba_heads: 16,
    mamba_head_dim: 16,
    groups: 2,
    state: 32,
    chunk: 64,
    vocab: 272,
    init_std: 0.08,
  },
  data: { sequence: 256, batch: 8, micro_batch: 8 },
  optimizer: { lr: 2e-3 },
  checkpoint: { every: 200 },
  validation: { every: 200 },
} as const satisfies RunPreset

/** The same size without state space. */
export const tinyDense = {
  ...tiny,
  name: 'tiny-dense',
  model: {
    pattern: '*-*-*-*-',
    hidden: 128,
    ffn: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    rope: 10000,
    vocab: 272,
    init_std: 0.08,
  },
} as const satisfies RunPreset
