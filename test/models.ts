import type { ModelConfig } from '../src/model/config.ts'
import type { Batch } from '../src/model/model.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { Tensor } from '../src/tensor/tensor.ts'

/** A block of every kind; a projection of Mamba-2 that no tile divides. */
export const everyBlock: ModelConfig = {
  pattern: 'M*-',
  hidden: 32,
  ffn: 64,
  heads: 4,
  kv_heads: 2,
  head_dim: 16,
  mamba_heads: 8,
  mamba_head_dim: 8,
  groups: 2,
  state: 10,
  conv: 4,
  chunk: 8,
  vocab: 48,
  rope: false,
  activations: 'f32',
  eps: 1e-5,
  init_std: 0.15,
}

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
