import { squaredRelu as forward, squaredReluBackward } from '../kernels/squared_relu/squared_relu.ts'
import type { Tape, Var } from './tape.ts'

/** max(x, 0)^2 of every element, deferred: a linear layer may make it as it quantises x. */
export function squaredRelu(tape: Tape, input: Var): Var {
  const x = input.value
  const n = [x.size]
  const y = tape.defer(
    x.shape,
    value => tape.backend.run(forward, { y: value.view(n), x: x.view(n) }),
    () => ({ x, squared: 1 }),
  )
  tape.record(y, [x], dy => {
    const { tensor, accumulate } = tape.gradientOf(input)
    tape.backend.run(squaredReluBackward, { dx: tensor.view(n), dy: dy.view(n), x: x.view(n), accumulate })
  })
  return y
}
