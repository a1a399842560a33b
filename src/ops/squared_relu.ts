import { squaredRelu as forward, squaredReluBackward } from '../kernels/squared_relu/squared_relu.ts'
import { type Tape, Var } from './tape.ts'

/** max(x, 0)^2 of every element. */
export function squaredRelu(tape: Tape, x: Var): Var {
  const y = new Var(tape.allocate('act', x.value.shape))
  const n = [x.value.size]
  tape.backend.run(forward, { y: y.value.view(n), x: x.value.view(n) })
  tape.record(y, [x.value], dy => {
    const { tensor, accumulate } = tape.gradientOf(x)
    tape.backend.run(squaredReluBackward, { dx: tensor.view(n), dy: dy.view(n), x: x.value.view(n), accumulate })
  })
  return y
}
