import { passGradient } from './add.ts'
import { type Tape, Var } from './tape.ts'

/**
 * body(x), of which nothing but x is kept: the backward pass runs it again. What it computes must follow from x, parameters and addressed
 * randomness alone; then losses and gradients are those without recomputation, to the bit.
 */
export function recompute(tape: Tape, x: Var, body: (x: Var) => Var): Var {
  if (!tape.recording) return body(x)
  const y = tape.unrecorded(() => body(x))
  tape.record(y, [x.value], dy => {
    const input = new Var(x.value)
    tape.replay(() => body(input), dy)
    passGradient(tape, x, input.gradient!)
    tape.dropGradient(input)
  })
  return y
}
