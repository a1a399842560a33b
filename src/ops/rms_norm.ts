import { rmsNorm as forward, rmsNormBackward } from '../kernels/rms_norm/rms_norm.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/** RMS normalisation of each row of x [rows, cols], times the weight [cols]. */
export function rmsNorm(tape: Tape, x: Var, weight: Parameter, eps: number): Var {
  const [rows] = x.value.shape as [number, number]
  const y = new Var(tape.allocate('act', x.value.shape))
  const inverse = tape.allocate('f32', [rows])
  const w = weight.value
  tape.backend.run(forward, { y: y.value, inverse, x: x.value, w, eps })
  tape.record(y, [x.value, inverse], dy => {
    const { tensor: dx, accumulate } = tape.gradientOf(x)
    tape.backend.run(rmsNormBackward, { dx, dw: weight.gradient, dy, x: x.value, w, inverse, accumulate })
  })
  return y
}
