import { rmsNorm as forward, rmsNormBackward } from '../kernels/rms_norm/rms_norm.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Parameter, Tape, Var } from './tape.ts'

/**
 * RMS normalisation of each row of x [rows, cols], times the weight [cols], deferred: a linear layer may make it as it quantises x, from the
 * inverses alone.
 */
export function rmsNorm(tape: Tape, input: Var, weight: Parameter, eps: number): Var {
  const x = input.value
  const [rows] = x.shape as [number, number]
  const inverse = tape.allocate('f32', [rows])
  const w = weight.value
  let known = false
  const run = (y: Tensor | undefined) => {
    tape.backend.run(forward, { y, inverse, x, w, eps })
    known = true
  }
  const knowInverse = () => {
    if (!known) run(undefined)
    return inverse
  }
  const y = tape.defer(x.shape, run, () => ({ x, inverse: knowInverse(), w, squared: 0 }))
  tape.record(y, [x, inverse], dy => {
    const { tensor: dx, accumulate } = tape.gradientOf(input)
    tape.backend.run(rmsNormBackward, { dx, dw: weight.gradient, dy, x, w, inverse: knowInverse(), accumulate })
  })
  return y
}
