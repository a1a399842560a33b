import { attentionBackward, attention as forward } from '../kernels/attention/attention.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Tape, Var } from './tape.ts'

export interface HeadSizes {
  readonly heads: number
  /** Divides `heads`. */
  readonly kvHeads: number
  readonly headDim: number
  /** Tokens in a sequence; rows are whole sequences one after another. */
  readonly sequence: number
}

/** The shape [rows, heads of qkv, headDim]. @throws RangeError if rows or columns do not fit `sizes`. */
export function headShape(op: string, qkv: Var, { heads, kvHeads, headDim, sequence }: HeadSizes): number[] {
  const [rows, cols] = qkv.value.shape as [number, number]
  const columns = heads + 2 * kvHeads
  if (cols !== columns * headDim)
    throw new RangeError(
      `${op}: qkv must have ${columns * headDim} columns (${columns} heads of ${headDim}), got ${cols}`,
    )
  if (heads % kvHeads !== 0) throw new RangeError(`${op}: ${kvHeads} key heads must divide ${heads} query heads`)
  if (rows % sequence !== 0)
    throw new RangeError(`${op}: rows must be a multiple of the sequence ${sequence}, got ${rows}`)
  return [rows, columns, headDim]
}

/**
 * Causal attention of qkv [rows, (heads + 2 kvHeads) headDim] = [q | k | v], as [rows, heads headDim]. starts i32[rows] is the first
 * position, counted within its sequence, that each row may see: 0, or where its document starts.
 */
export function attention(tape: Tape, qkv: Var, { starts, ...sizes }: HeadSizes & { starts: Tensor }): Var {
  const shape = headShape('attention', qkv, sizes)
  const { heads, headDim, sequence } = sizes
  const rows = shape[0]!
  const outShape = [rows, heads, headDim]
  const y = new Var(tape.allocate('act', [rows, heads * headDim]))
  const lse = tape.allocate('f32', [rows, heads])
  tape.backend.run(forward, { y: y.value.view(outShape), lse, qkv: qkv.value.view(shape), starts, sequence })
  tape.record(y, [y.value, lse, qkv.value, starts], dy => {
    const { tensor, accumulate } = tape.gradientOf(qkv)
    tape.backend.run(attentionBackward, {
      dqkv: tensor.view(shape),
      dy: dy.view(outShape),
      y: y.value.view(outShape),
      lse,
      qkv: qkv.value.view(shape),
      starts,
      sequence,
      accumulate,
    })
  })
  return y
}
