import { type Dims, defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'
import { backwardLaunches, forwardLaunches } from './attention.cuda.ts'

/**
 * Causal grouped-query attention of packed sequences (docs/numerics.md, "Block maths"), softmax in FP32.
 *
 * Rows are whole sequences one after another. The columns of qkv are heads: first the query heads, then the key heads, then as many
 * value heads; query head h reads key and value head floor(h * kvHeads / heads). With s = q·k / sqrt(dim) over the positions that row r
 * may see, starts[r] .. r counted within its own sequence:
 *
 *   lse[r,h] = log sum_c exp s[r,c]          y[r,h] = sum_c exp(s[r,c] - lse[r,h]) v[c]
 *
 * Probabilities are never stored: forward and backward go over blocks of keys and keep the log-sum-exp alone, as FlashAttention (Dao
 * et al. 2022).
 */

interface Sizes {
  rows: number
  heads: number
  columns: number
  dim: number
}

/** Calls `visit` for every query row and head with the offsets of q, k and v of the first visible position; keys are `stride` apart. */
function eachRow(
  { rows, heads, columns, dim }: Sizes,
  sequence: number,
  starts: Int32Array,
  visit: (r: number, h: number, visible: number, q: number, k: number, v: number) => void,
): void {
  const kvHeads = (columns - heads) / 2
  for (let r = 0; r < rows; r++) {
    const position = r % sequence
    const first = Math.max(0, starts[r]!)
    for (let h = 0; h < heads; h++) {
      const keyHead = heads + Math.floor((h * kvHeads) / heads)
      const key = ((r - position + first) * columns + keyHead) * dim
      visit(r, h, position - first + 1, (r * columns + h) * dim, key, key + kvHeads * dim)
    }
  }
}

const dot = (a: Float32Array, i: number, b: Float32Array, j: number, n: number): number => {
  let sum = 0
  for (let d = 0; d < n; d++) sum += a[i + d]! * b[j + d]!
  return sum
}

/** `document`: a document starts every so many positions, as when attention resets at boundaries. */
const shapes: readonly {
  rows: number
  sequence: number
  heads: number
  kv: number
  dim: number
  document?: number
  bench?: true
}[] = [
  { rows: 1, sequence: 1, heads: 1, kv: 1, dim: 16 },
  { rows: 10, sequence: 5, heads: 2, kv: 1, dim: 5 },
  { rows: 140, sequence: 70, heads: 4, kv: 2, dim: 24 },
  { rows: 150, sequence: 150, heads: 3, kv: 1, dim: 16, document: 40 },
  { rows: 68, sequence: 68, heads: 2, kv: 1, dim: 72 },
  { rows: 8 * 256, sequence: 256, heads: 4, kv: 2, dim: 64, bench: true },
  { rows: 2048, sequence: 2048, heads: 8, kv: 2, dim: 128, bench: true },
  // More tiles of 128 rows than a GPU has multiprocessors: some of its blocks take two.
  { rows: 280, sequence: 140, heads: 36, kv: 36, dim: 8, document: 90 },
]

/** Of products over the causal half of each square of rows; documents, which hide more, are not counted. */
const operations =
  (products: number) =>
  ({ rows, heads, dim }: Dims, { sequence }: { sequence: number }): number =>
    products * rows! * heads! * dim! * (sequence + 1)

/** `products`: of two multiplications for each visible pair and element of a head. */
const cases = (products: number) =>
  shapes.map(({ rows, sequence, heads, kv, dim, document, bench }, i) => ({
    dims: { rows, heads, columns: heads + 2 * kv, dim },
    scalars: { sequence, accumulate: i % 2 },
    inputs: () => ({
      starts: Int32Array.from({ length: rows }, (_, r) =>
        document ? Math.floor((r % sequence) / document) * document : 0,
      ),
      // Near what it would be; with any lse the formulas of the backward pass are what is computed.
      lse: new Float32Array(rows * heads).fill(3),
    }),
    flops: operations(products)({ rows, heads, dim }, { sequence }),
    ...(bench && { bench }),
  }))

export const attention = defineKernel({
  name: 'attention',
  args: {
    y: output('act', 'rows', 'heads', 'dim'),
    lse: output('f32', 'rows', 'heads'),
    qkv: input('act', 'rows', 'columns', 'dim'),
    starts: input('i32', 'rows'),
    sequence: i32,
  },
  reference({ y, lse, qkv, starts, sequence }, dims) {
    const { heads, columns, dim } = dims as unknown as Sizes
    const scores = new Float64Array(sequence)
    eachRow(dims as unknown as Sizes, sequence, starts, (r, h, visible, q, k, v) => {
      let largest = Number.NEGATIVE_INFINITY
      for (let c = 0; c < visible; c++) {
        scores[c] = dot(qkv, q, qkv, k + c * columns * dim, dim) / Math.sqrt(dim)
        largest = Math.max(largest, scores[c]!)
      }
      let sum = 0
      for (let c = 0; c < visible; c++) sum += Math.exp(scores[c]! - largest)
      lse[r * heads + h] = largest + Math.log(sum)
      for (let d = 0; d < dim; d++) {
        let value = 0
        for (let c = 0; c < visible; c++) value += Math.exp(scores[c]! - largest) * qkv[v + c * columns * dim + d]!
        y[(r * heads + h) * dim + d] = value / sum
      }
    })
  },
  cases: cases(2).map(({ inputs, scalars: { sequence }, ...rest }) => ({
    ...rest,
    scalars: { sequence },
    inputs: () => ({ starts: inputs().starts }),
  })),
  tolerance: 2e-6,
  flops: operations(2),
  cuda: { persistent: true, launches: forwardLaunches },
})

/**
 * With p = exp(s - lse), D[r,h] = dy[r,h]·y[r,h] and ds = p (dy·v - D) / sqrt(dim):
 *
 *   dv[c] = sum p dy          dk[c] = sum ds q          dq[r] = sum_c ds k[c]
 *
 * where dk and dv are sums over the rows that see c and over the query heads of their group. `accumulate` 1 adds to dqkv, 0
 * overwrites it.
 */
export const attentionBackward = defineKernel({
  name: 'attention_backward',
  args: {
    dqkv: inout('act', 'rows', 'columns', 'dim'),
    dy: input('act', 'rows', 'heads', 'dim'),
    y: input('act', 'rows', 'heads', 'dim'),
    lse: input('f32', 'rows', 'heads'),
    qkv: input('act', 'rows', 'columns', 'dim'),
    starts: input('i32', 'rows'),
    sequence: i32,
    accumulate: i32,
  },
  reference({ dqkv, dy, y, lse, qkv, starts, sequence, accumulate }, dims) {
    const { heads, columns, dim } = dims as unknown as Sizes
    const sums = new Float64Array(dqkv.length)
    const add = (at: number, factor: number, from: Float32Array, i: number) => {
      for (let d = 0; d < dim; d++) sums[at + d] = sums[at + d]! + factor * from[i + d]!
    }
    eachRow(dims as unknown as Sizes, sequence, starts, (r, h, visible, q, k, v) => {
      const out = (r * heads + h) * dim
      const delta = dot(dy, out, y, out, dim)
      for (let c = 0; c < visible; c++) {
        const next = c * columns * dim
        const p = Math.exp(dot(qkv, q, qkv, k + next, dim) / Math.sqrt(dim) - lse[r * heads + h]!)
        const ds = (p * (dot(dy, out, qkv, v + next, dim) - delta)) / Math.sqrt(dim)
        add(q, ds, qkv, k + next)
        add(k + next, ds, qkv, q)
        add(v + next, p, dy, out)
      }
    })
    for (let i = 0; i < dqkv.length; i++) dqkv[i] = accumulate ? dqkv[i]! + sums[i]! : sums[i]!
  },
  cases: cases(5),
  tolerance: 5e-6,
  flops: operations(5),
  cuda: {
    persistent: true,
    // With BF16, probabilities and their gradients are rounded where they enter a product.
    tolerance: { f32: 5e-6, bf16: 1e-3 },
    workspace: ({ rows, heads }) => 4 * rows! * heads!,
    launches: backwardLaunches,
  },
})
