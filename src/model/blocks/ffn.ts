import { linear } from '../../ops/linear.ts'
import { squaredRelu } from '../../ops/squared_relu.ts'
import { normal } from '../initialise.ts'
import { type BlockKind, residualDeviation } from './block.ts'

/** down(max(up(x), 0)^2), without gate or biases. */
export const ffn: BlockKind = {
  title: 'FFN',
  sizes: ['ffn'],
  parameters: config => [
    {
      name: 'mixer.up_proj.weight',
      shape: [config.ffn, config.hidden],
      initialise: normal(config.init_std),
      decay: true,
      linear: true,
    },
    {
      name: 'mixer.down_proj.weight',
      shape: [config.hidden, config.ffn],
      initialise: normal(residualDeviation(config)),
      decay: true,
      linear: true,
    },
  ],
  forward(tape, x, { linear: layer }) {
    const up = linear(tape, layer('mixer.up_proj'), x)
    return linear(tape, layer('mixer.down_proj'), squaredRelu(tape, up))
  },
  flops: config => 2 * config.ffn,
  saved: config => config.ffn,
}
