import { attention as attend } from '../../ops/attention.ts'
import { linear } from '../../ops/linear.ts'
import { rope } from '../../ops/rope.ts'
import { attentionStep } from '../../ops/steps.ts'
import { normal } from '../initialise.ts'
import { type BlockKind, residualDeviation } from './block.ts'

/**
 * Causal grouped-query attention. One fused projection makes [q | k | v], heads one after another; positions are not encoded
 * unless `rope` gives a base.
 */
export const attention: BlockKind = {
  title: 'attention',
  sizes: ['heads', 'kv_heads', 'head_dim'],
  multiples: [['heads', 'kv_heads']],
  parameters: config => [
    {
      name: 'mixer.qkv_proj.weight',
      shape: [(config.heads + 2 * config.kv_heads) * config.head_dim, config.hidden],
      initialise: normal(config.init_std),
      decay: true,
      linear: true,
    },
    {
      name: 'mixer.o_proj.weight',
      shape: [config.hidden, config.heads * config.head_dim],
      initialise: normal(residualDeviation(config)),
      decay: true,
      linear: true,
    },
  ],
  forward(tape, x, { config, linear: layer, sequence, starts, memory }) {
    const sizes = { heads: config.heads, kvHeads: config.kv_heads, headDim: config.head_dim, sequence }
    let qkv = linear(tape, layer('mixer.qkv_proj'), x)
    if (config.rope !== false) qkv = rope(tape, qkv, { ...sizes, base: config.rope, first: memory?.position })
    const mixed = memory
      ? attentionStep(tape, qkv, memory.tensors.cache!, memory.position, sizes)
      : attend(tape, qkv, { ...sizes, starts })
    return linear(tape, layer('mixer.o_proj'), mixed)
  },
  remembers: (config, capacity) => ({
    cache: { dtype: config.activations, shape: [capacity, 2 * config.kv_heads, config.head_dim] },
  }),
  // q·k and p·v over the half of the square that is causal
  flops: (config, sequence) => 2 * config.heads * config.head_dim * sequence,
  saved: config => (2 * config.heads + 2 * config.kv_heads) * config.head_dim,
}
