import { rope as kernel } from '../kernels/rope/rope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type HeadSizes, headShape } from './attention.ts'
import { type Tape, Var } from './tape.ts'

/**
 * Rotary position embedding of the query and key heads of qkv [rows, (heads + 2 kvHeads) headDim]; values pass unchanged. Positions
 * count from the start of each sequence, or on from
 * `first` i32[1], which has no gradient. Pairs are elements i and i + headDim / 2, as Hugging Face's Llama has them.
 */
export function rope(
  tape: Tape,
  qkv: Var,
  { base, first, ...sizes }: HeadSizes & { base: number; first?: Tensor | undefined },
): Var {
  const shape = headShape('rope', qkv, sizes)
  const { heads, kvHeads, headDim, sequence } = sizes
  if (headDim % 2 !== 0) throw new RangeError(`rope: head_dim must be even, got ${headDim}`)
  const turn = { base, sequence, rotated: heads + kvHeads }
  const y = new Var(tape.allocate('act', qkv.value.shape))
  const x = qkv.value.view(shape)
  tape.backend.run(kernel, { y: y.value.view(shape), x, first, ...turn, inverse: 0, accumulate: 0 })
  tape.record(y, [], dy => {
    const { tensor, accumulate } = tape.gradientOf(qkv)
    tape.backend.run(kernel, { y: tensor.view(shape), x: dy.view(shape), ...turn, inverse: 1, accumulate })
  })
  return y
}
