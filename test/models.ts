import type { Batch } from '../src/model/model.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { Tensor } from '../src/tensor/tensor.ts'

const upload = (backend: Backend, data: Int32Array): Tensor =>
  new Tensor(backend, backend.alloc(data.byteLength), 0, 'i32', [data.length]).write(data)

/** A batch of whole sequences; the last token of each has no target. */
export function makeBatch(
  backend: Backend,
  tokens: Int32Array,
  sequence: number,
  starts: Int32Array = new Int32Array(tokens.length),
): Batch {
  const targets = tokens.map((_, i) => (i % sequence === sequence - 1 ? -1 : tokens[i + 1]!))
  return { tokens: upload(backend, tokens), targets: upload(backend, targets), starts: upload(backend, starts) }
}
