import { defineKernel, inout, input, output } from '../../tensor/kernel.ts'

/**
 * Rows of a table: y[r] = w[tokens[r]].
 *
 * A token outside 0 .. vocab-1 gives a row of NaN, which the guards of a run find; it adds nothing to the gradient.
 */
export const embedding = defineKernel({
  name: 'embedding',
  args: {
    y: output('act', 'rows', 'cols'),
    tokens: input('i32', 'rows'),
    w: input('f32', 'vocab', 'cols'),
  },
  reference({ y, tokens, w }, { rows, cols, vocab }) {
    for (let r = 0; r < rows!; r++) {
      const token = tokens[r]!
      const known = token >= 0 && token < vocab!
      for (let c = 0; c < cols!; c++) y[r * cols! + c] = known ? w[token * cols! + c]! : Number.NaN
    }
  },
  cases: [
    { dims: { rows: 1, cols: 16, vocab: 3 }, inputs: () => ({ tokens: Int32Array.of(2) }) },
    { dims: { rows: 6, cols: 33, vocab: 4 }, inputs: () => ({ tokens: Int32Array.of(3, 0, -1, 1, 4, 3) }) },
    {
      dims: { rows: 2048, cols: 1024, vocab: 272 },
      inputs: ({ rows, vocab }) => ({ tokens: Int32Array.from({ length: rows! }, (_, r) => (r * 7919) % vocab!) }),
      bench: true,
    },
  ],
  tolerance: 0,
})

/** dw[tokens[r]] += dy[r], rows in order. */
export const embeddingBackward = defineKernel({
  name: 'embedding_backward',
  args: {
    dw: inout('f32', 'vocab', 'cols'),
    dy: input('act', 'rows', 'cols'),
    tokens: input('i32', 'rows'),
  },
  reference({ dw, dy, tokens }, { rows, cols, vocab }) {
    for (let r = 0; r < rows!; r++) {
      const token = tokens[r]!
      if (token < 0 || token >= vocab!) continue
      for (let c = 0; c < cols!; c++) {
        const i = token * cols! + c
        dw[i] = dw[i]! + dy[r * cols! + c]!
      }
    }
  },
  cases: [
    { dims: { rows: 1, cols: 16, vocab: 3 }, inputs: () => ({ tokens: Int32Array.of(2) }) },
    { dims: { rows: 7, cols: 133, vocab: 4 }, inputs: () => ({ tokens: Int32Array.of(3, 0, -1, 3, 4, 3, 0) }) },
    {
      dims: { rows: 300, cols: 264, vocab: 10 },
      inputs: ({ rows }) => ({ tokens: Int32Array.from({ length: rows! }, (_, r) => (r % 3 ? 2 : r % 11)) }),
    },
    {
      dims: { rows: 2048, cols: 1024, vocab: 272 },
      inputs: ({ rows, vocab }) => ({ tokens: Int32Array.from({ length: rows! }, (_, r) => (r * 7919) % vocab!) }),
      bench: true,
    },
  ],
  tolerance: 0,
  cuda: {
    workspace: ({ vocab, rows }) => 4 * (vocab! + 1 + rows!),
    launches: ({ vocab, rows, cols }) => [
      { entry: 'count', grid: 1, block: 1024 },
      { entry: 'sort', grid: Math.ceil(rows! / 32), block: 1024 },
      { entry: 'add', grid: [Math.ceil(cols! / 256), Math.min(vocab!, 65535)], block: 128 },
    ],
  },
})
