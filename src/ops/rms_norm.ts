import { rmsNorm as forward, rmsNormBackward } from '../kernels/rms_norm/rms_norm.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { passGradient } from './add.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/**
 * RMS normalisation of each row of x [rows, cols], times the weight [cols], deferred: a linear layer may make it as it quantises x, from the
 * inverses alone.
 */
export const rmsNorm = (tape: Tape, input: Var, weight: Parameter, eps: number): Var =>
  residualNorm(tape, input, undefined, weight, eps).normed

/**
 * The sum of a residual stream and its branch, and its norm as `rmsNorm` makes it, in one pass over memory when the first of the two is asked
 * for. The value of the branch dies then. Without a branch the sum is the stream itself.
 */
export function residualNorm(
  tape: Tape,
  stream: Var,
  branch: Var | undefined,
  weight: Parameter,
  eps: number,
): { sum: Var; normed: Var } {
  const { backend, activations: dtype } = tape
  const { shape, value: old } = stream
  const x = branch ? tape.allocate('act', shape) : old
  const inverse = tape.allocate('f32', [shape[0]!])
  const w = weight.value
  let known = false
  const run = (y: Tensor | undefined) => {
    if (branch && !known) {
      backend.run(forward, { y, inverse, x: old, branch: branch.value, sum: x, w, eps })
      tape.release(branch)
    } else backend.run(forward, { y, inverse, x, w, eps })
    known = true
  }
  const know = () => {
    if (!known) run(undefined)
  }
  let sum = stream
  if (branch) {
    const value = () => {
      know()
      return x
    }
    sum = new Var({ dtype, shape, value })
    tape.record(sum, [], dsum => {
      passGradient(tape, stream, dsum)
      passGradient(tape, branch, dsum)
    })
  }
  const normed = tape.defer(shape, run, () => {
    know()
    return { x, inverse, w, squared: 0 }
  })
  // Whatever gave it a gradient has read it, so the inverses are known.
  tape.record(normed, [x, inverse], dy => {
    const { tensor: dx, accumulate } = tape.gradientOf(sum)
    backend.run(rmsNormBackward, { dx, dw: weight.gradient, dy, x, w, inverse, accumulate })
  })
  return { sum, normed }
}
