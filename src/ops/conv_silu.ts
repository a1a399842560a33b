import { convSiluBackward, convSilu as forward } from '../kernels/conv_silu/conv_silu.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/**
 * Causal depthwise convolution with bias, then SiLU, of columns offset .. offset+C-1 of `projection` [batch * sequence, width]; weight
 * [C, 1, taps], bias [C]. `starts` i32 [rows] is the first position of its sequence that each row may see. Returns [rows, C].
 *
 * The backward pass overwrites those columns of the projection's gradient and leaves the others: the ops of a Mamba-2 block
 * (convSilu, ssd, gatedNorm) together cover it, each its own columns once.
 * @throws RangeError if the rows are not whole sequences, or the columns lie outside the projection.
 */
export function convSilu(
  tape: Tape,
  projection: Var,
  weight: Parameter,
  bias: Parameter,
  { offset, sequence, starts }: { offset: number; sequence: number; starts: Tensor },
): Var {
  const [rows, width] = projection.value.shape as [number, number]
  const channels = weight.shape[0]!
  if (rows % sequence !== 0)
    throw new RangeError(`convSilu: ${rows} rows are not a whole number of sequences of ${sequence}`)
  if (offset < 0 || offset + channels > width)
    throw new RangeError(
      `convSilu: columns ${offset} .. ${offset + channels - 1} are outside a projection of ${width} columns`,
    )
  const y = new Var(tape.allocate('act', [rows, channels]))
  const read = { projection: projection.value, weight: weight.value, bias: bias.value, starts, offset, sequence }
  tape.backend.run(forward, { y: y.value, ...read })
  tape.record(y, [projection.value, starts], dy => {
    const { tensor: dprojection } = tape.gradientOf(projection)
    tape.backend.run(convSiluBackward, { dprojection, dweight: weight.gradient, dbias: bias.gradient, dy, ...read })
  })
  return y
}
