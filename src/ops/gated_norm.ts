import { gatedNorm as forward, gatedNormBackward } from '../kernels/gated_norm/gated_norm.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/**
 * y [rows, d] times SiLU of its gate z, normalised over each of `groups` slices, times the weight [d]. z is columns 0 .. d-1 of
 * `projection` [rows, width].
 *
 * The backward pass overwrites those columns of the projection's gradient and leaves the others: the ops of a Mamba-2 block
 * (convSilu, ssd, gatedNorm) together cover it, each its own columns once.
 * @throws RangeError if groups does not divide d, or the projection is narrower than d.
 */
export function gatedNorm(
  tape: Tape,
  y: Var,
  projection: Var,
  weight: Parameter,
  { groups, eps }: { groups: number; eps: number },
): Var {
  const [rows, d] = y.value.shape as [number, number]
  if (d % groups !== 0) throw new RangeError(`gatedNorm: ${d} channels cannot be cut into ${groups} equal groups`)
  if (projection.value.shape[1]! < d)
    throw new RangeError(`gatedNorm: the projection has ${projection.value.shape[1]} columns, the gate needs ${d}`)
  const out = new Var(tape.allocate('act', [rows, d]))
  const inverse = tape.allocate('f32', [rows, groups])
  const read = { y: y.value, projection: projection.value, w: weight.value }
  tape.backend.run(forward, { out: out.value, inverse, ...read, eps })
  tape.record(out, [y.value, projection.value, inverse], dout => {
    const { tensor: dy, accumulate } = tape.gradientOf(y)
    const { tensor: dprojection } = tape.gradientOf(projection)
    tape.backend.run(gatedNormBackward, { dy, dprojection, dw: weight.gradient, dout, ...read, inverse, accumulate })
  })
  return out
}
