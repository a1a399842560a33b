import { embeddingBackward, embedding as forward } from '../kernels/embedding/embedding.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/** Rows of the weight [vocab, cols] at `tokens` i32[rows], as activations [rows, cols]. */
export function embedding(tape: Tape, tokens: Tensor, weight: Parameter): Var {
  const y = new Var(tape.allocate('act', [tokens.size, weight.shape[1]!]))
  tape.backend.run(forward, { y: y.value, tokens, w: weight.value })
  tape.record(y, [tokens], dy => tape.backend.run(embeddingBackward, { dw: weight.gradient, dy, tokens }))
  return y
}
