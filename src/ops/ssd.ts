import { ssd as forward, ssdBackward } from '../kernels/ssd/ssd.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

export interface SsdOptions {
  /** First column of dt in the projection. */
  readonly offset: number
  readonly heads: number
  readonly headDim: number
  readonly groups: number
  readonly state: number
  /** Tokens per chunk; changes speed and rounding only. */
  readonly chunk: number
  readonly sequence: number
  /** i32 [rows]: the first position of its sequence whose history each row may see. */
  readonly starts: Tensor
}

/**
 * The state-space recurrence of Mamba-2: `xbc` [batch * sequence, heads * headDim + 2 * groups * state] holds x, B and C, columns
 * offset .. offset+heads-1 of `projection` hold dt; dtBias, aLog and skip (D) are [heads]. Returns [rows, heads * headDim].
 *
 * Nothing is kept for the backward pass but the inputs: states are as large as y at usual sizes, and one of eight products to compute again.
 *
 * The backward pass overwrites the dt columns of the projection's gradient and leaves the others: the ops of a Mamba-2 block
 * (convSilu, ssd, gatedNorm) together cover it, each its own columns once.
 * @throws RangeError if the options do not fit each other or the shapes.
 */
export function ssd(
  tape: Tape,
  xbc: Var,
  projection: Var,
  dtBias: Parameter,
  aLog: Parameter,
  skip: Parameter,
  options: SsdOptions,
): Var {
  const { heads, headDim, starts, ...scalars } = options
  const { offset, groups, state, chunk, sequence } = scalars
  const [rows, channels] = xbc.value.shape as [number, number]
  const inner = heads * headDim
  if (heads % groups !== 0) throw new RangeError(`ssd: ${heads} heads cannot be shared out to ${groups} equal groups`)
  if (channels !== inner + 2 * groups * state)
    throw new RangeError(
      `ssd: xbc has ${channels} columns, ${heads} heads of ${headDim} and ${groups} groups of state ${state} need ${inner + 2 * groups * state}`,
    )
  if (rows % sequence !== 0)
    throw new RangeError(`ssd: ${rows} rows are not a whole number of sequences of ${sequence}`)
  if (chunk < 1) throw new RangeError(`ssd: a chunk must have at least 1 token, got ${chunk}`)
  if (offset < 0 || offset + heads > projection.value.shape[1]!)
    throw new RangeError(
      `ssd: columns ${offset} .. ${offset + heads - 1} are outside a projection of ${projection.value.shape[1]} columns`,
    )
  const y = new Var(tape.allocate('act', [rows, inner]))
  const read = {
    xbc: xbc.value,
    projection: projection.value,
    dtBias: dtBias.value,
    aLog: aLog.value,
    skip: skip.value,
    starts,
    ...scalars,
  }
  tape.backend.run(forward, { y: y.value, ...read })
  tape.record(y, [xbc.value, projection.value, starts], dy => {
    const { tensor: dxbc, accumulate } = tape.gradientOf(xbc)
    const { tensor: dprojection } = tape.gradientOf(projection)
    const parameters = { ddtBias: dtBias.gradient, daLog: aLog.gradient, dskip: skip.gradient }
    tape.backend.run(ssdBackward, { dxbc, dprojection, ...parameters, dy, ...read, accumulate })
  })
  return y
}
