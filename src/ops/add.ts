import { add as kernel } from '../kernels/add/add.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Tape, Var } from './tape.ts'

const flat = (tensor: Tensor): Tensor => tensor.view([tensor.size])

/** Adds `gradient` to that of `v`; where it is the first contribution nothing is copied (see `Tape.shareGradient`). */
export function passGradient(tape: Tape, v: Var, gradient: Tensor): void {
  if (tape.shareGradient(v, gradient)) return
  const sum = flat(tape.gradientOf(v).tensor)
  tape.backend.run(kernel, { y: sum, a: sum, b: flat(gradient) })
}

/** a + b: a residual stream and its branch. Both share the gradient of the sum. */
export function add(tape: Tape, a: Var, b: Var): Var {
  const y = new Var(tape.allocate('act', a.value.shape))
  tape.backend.run(kernel, { y: flat(y.value), a: flat(a.value), b: flat(b.value) })
  tape.record(y, [], dy => {
    passGradient(tape, a, dy)
    passGradient(tape, b, dy)
  })
  return y
}
