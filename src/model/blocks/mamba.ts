import { convSilu } from '../../ops/conv_silu.ts'
import { gatedNorm } from '../../ops/gated_norm.ts'
import { linear } from '../../ops/linear.ts'
import { ssd } from '../../ops/ssd.ts'
import { convSiluStep, ssdStep } from '../../ops/steps.ts'
import { mambaSizes } from '../config.ts'
import { logDecay, normal, ones, timeStepBias, uniform } from '../initialise.ts'
import { type BlockKind, residualDeviation } from './block.ts'

/**
 * Mamba-2 (docs/numerics.md, "Block maths"). The projection is [z | x | B | C | dt]: x, B and C go through the convolution, z
 * gates the norm, dt is the time step of each head.
 */
export const mamba: BlockKind = {
  title: 'Mamba-2',
  sizes: ['mamba_heads', 'mamba_head_dim'],
  multiples: [['mamba_heads', 'groups']],
  parameters(config) {
    const { inner, conv, projection } = mambaSizes(config)
    const limit = 1 / Math.sqrt(config.conv)
    const perHead = { shape: [config.mamba_heads], decay: false }
    return [
      { ...perHead, name: 'mixer.dt_bias', initialise: timeStepBias },
      { ...perHead, name: 'mixer.A_log', initialise: logDecay },
      { ...perHead, name: 'mixer.D', initialise: ones },
      {
        name: 'mixer.in_proj.weight',
        shape: [projection, config.hidden],
        initialise: normal(config.init_std),
        decay: true,
        linear: true,
        padded: true,
      },
      {
        name: 'mixer.conv1d.weight',
        shape: [conv, 1, config.conv],
        initialise: uniform(-limit, limit),
        decay: true,
      },
      { name: 'mixer.conv1d.bias', shape: [conv], initialise: uniform(-limit, limit), decay: false },
      { name: 'mixer.norm.weight', shape: [inner], initialise: ones, decay: false },
      {
        name: 'mixer.out_proj.weight',
        shape: [config.hidden, inner],
        initialise: normal(residualDeviation(config)),
        decay: true,
        linear: true,
      },
    ]
  },
  forward(tape, x, { config, linear: layer, parameter, sequence, starts, memory }) {
    const { inner, conv } = mambaSizes(config)
    const projection = linear(tape, layer('mixer.in_proj'), x)
    const taps = [parameter('mixer.conv1d.weight'), parameter('mixer.conv1d.bias')] as const
    const xbc = memory
      ? convSiluStep(tape, projection, ...taps, memory.tensors.window!, inner)
      : convSilu(tape, projection, ...taps, { offset: inner, sequence, starts })
    const recurrence = [parameter('mixer.dt_bias'), parameter('mixer.A_log'), parameter('mixer.D')] as const
    const sizes = { offset: inner + conv, groups: config.groups }
    const y = memory
      ? ssdStep(tape, xbc, projection, ...recurrence, memory.tensors.states!, sizes)
      : ssd(tape, xbc, projection, ...recurrence, {
          ...sizes,
          heads: config.mamba_heads,
          headDim: config.mamba_head_dim,
          state: config.state,
          chunk: config.chunk,
          sequence,
          starts,
        })
    const normed = gatedNorm(tape, y, projection, parameter('mixer.norm.weight'), {
      groups: config.groups,
      eps: config.eps,
    })
    return linear(tape, layer('mixer.out_proj'), normed)
  },
  remembers: config => ({
    window: { dtype: config.activations, shape: [config.conv - 1, mambaSizes(config).conv] },
    states: { dtype: 'f32', shape: [config.mamba_heads, config.mamba_head_dim, config.state] },
  }),
  flops(config, sequence) {
    const { inner, conv } = mambaSizes(config)
    const chunk = Math.min(config.chunk, sequence)
    // C·B per group, its product with x per head (both over a causal half), states out of and into a chunk, convolution
    return (config.groups * config.state + inner) * chunk + 4 * inner * config.state + 2 * conv * config.conv
  },
  saved(config) {
    const { inner, conv, projection } = mambaSizes(config)
    return projection + conv + inner
  },
}
