import { roundBf16 } from '../../formats/bf16.ts'
import { defineKernel, f32, i32, inout, input, optional, output } from '../../tensor/kernel.ts'

/** On a GPU a thread has eight columns of a whole block's rows, where a row is made of such and not too long. */
const inEights = (cols: number): boolean => cols % 8 === 0 && cols <= 4096
const threadsOf = (cols: number): number => Math.ceil(cols / 256) * 32
const rowsAtOnce = 4

/**
 * Root-mean-square normalisation of each row (docs/numerics.md, "Block maths"):
 *
 *   inverse[r] = 1 / sqrt(mean_c x[r,c]^2 + eps)          y[r,c] = x[r,c] * inverse[r] * w[c]
 *
 * Where `branch` is given x + branch, rounded to its dtype, is normalised in place of x and written to `sum`.
 * `inverse` is kept for the backward pass; y may be left out where its readers make it of x themselves. FP32 throughout: the product with w happens before y is rounded to its dtype
 * (as TransformerEngine and Megatron; Hugging Face rounds before it).
 */
export const rmsNorm = defineKernel({
  name: 'rms_norm',
  args: {
    y: optional(output('act', 'rows', 'cols')),
    inverse: output('f32', 'rows'),
    x: input('act', 'rows', 'cols'),
    branch: optional(input('act', 'rows', 'cols')),
    sum: optional(output('act', 'rows', 'cols')),
    w: input('f32', 'cols'),
    eps: f32,
  },
  reference({ y, inverse, x: stream, branch, sum: total, w, eps }, { rows, cols }, act) {
    const round = act === 'bf16' ? roundBf16 : Math.fround
    const x = branch ? stream.map((value, i) => round(value + branch[i]!)) : stream
    if (branch) total!.set(x)
    for (let r = 0; r < rows!; r++) {
      let sum = 0
      for (let c = 0; c < cols!; c++) sum += x[r * cols! + c]! ** 2
      inverse[r] = 1 / Math.sqrt(sum / cols! + eps)
      if (!y) continue
      for (let c = 0; c < cols!; c++) y[r * cols! + c] = Math.fround(x[r * cols! + c]! * inverse[r]!) * w[c]!
    }
  },
  cases: [
    { dims: { rows: 1, cols: 16 }, scalars: { eps: 1e-5 }, with: ['y'] },
    { dims: { rows: 7, cols: 80 }, scalars: { eps: 0.1 }, with: ['y'] },
    { dims: { rows: 33, cols: 257 }, scalars: { eps: 1e-5 }, with: ['y'] },
    { dims: { rows: 33, cols: 257 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 7, cols: 80 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 7, cols: 80 }, scalars: { eps: 1e-5 }, with: ['branch', 'sum'] },
    { dims: { rows: 10, cols: 2056 }, scalars: { eps: 1e-5 }, with: ['y', 'branch', 'sum'] },
    { dims: { rows: 33, cols: 257 }, scalars: { eps: 1e-5 }, with: ['y', 'branch', 'sum'] },
    { dims: { rows: 5, cols: 4104 }, scalars: { eps: 1e-5 }, with: ['y', 'branch', 'sum'] },
    { dims: { rows: 8192, cols: 2048 }, scalars: { eps: 1e-5 }, with: ['y', 'branch', 'sum'], bench: true },
    { dims: { rows: 2048, cols: 1024 }, scalars: { eps: 1e-5 }, with: ['y'], bench: true },
    { dims: { rows: 2048, cols: 1024 }, scalars: { eps: 1e-5 }, bench: true },
  ],
  tolerance: { y: 1e-6, inverse: 1e-6, sum: 0 },
  cuda: {
    launches: ({ rows, cols }) =>
      inEights(cols!)
        ? [{ entry: 'eights', grid: Math.ceil(rows! / rowsAtOnce), block: threadsOf(cols!) }]
        : [{ entry: 'rows', grid: Math.ceil(rows! / 8), block: 256 }],
  },
})

/**
 * With n = x * inverse and g = dy * w:
 *
 *   dx[r,c] (+)= inverse[r] * (g[r,c] - n[r,c] * mean_c(g[r,c] * n[r,c]))          dw[c] += sum_r dy[r,c] * n[r,c]
 *
 * `accumulate` 1 adds to dx, 0 overwrites it. dw is always added to, rows in order within fixed groups.
 */
export const rmsNormBackward = defineKernel({
  name: 'rms_norm_backward',
  args: {
    dx: inout('act', 'rows', 'cols'),
    dw: inout('f32', 'cols'),
    dy: input('act', 'rows', 'cols'),
    x: input('act', 'rows', 'cols'),
    w: input('f32', 'cols'),
    inverse: input('f32', 'rows'),
    accumulate: i32,
  },
  reference({ dx, dw, dy, x, w, inverse, accumulate }, { rows, cols }) {
    for (let r = 0; r < rows!; r++) {
      const s = inverse[r]!
      let dot = 0
      for (let c = 0; c < cols!; c++) dot += dy[r * cols! + c]! * w[c]! * x[r * cols! + c]! * s
      for (let c = 0; c < cols!; c++) {
        const i = r * cols! + c
        const n = x[i]! * s
        const value = s * (dy[i]! * w[c]! - (n * dot) / cols!)
        dx[i] = accumulate ? dx[i]! + value : value
      }
    }
    for (let c = 0; c < cols!; c++) {
      let sum = 0
      for (let r = 0; r < rows!; r++) sum += dy[r * cols! + c]! * x[r * cols! + c]! * inverse[r]!
      dw[c] = dw[c]! + sum
    }
  },
  cases: [
    { dims: { rows: 1, cols: 16 }, scalars: { accumulate: 0 } },
    { dims: { rows: 7, cols: 80 }, scalars: { accumulate: 1 } },
    { dims: { rows: 133, cols: 257 }, scalars: { accumulate: 0 } },
    { dims: { rows: 75, cols: 2048 }, scalars: { accumulate: 1 } },
    { dims: { rows: 34, cols: 3000 }, scalars: { accumulate: 0 } },
    { dims: { rows: 34, cols: 4104 }, scalars: { accumulate: 1 } },
    { dims: { rows: 2048, cols: 1024 }, scalars: { accumulate: 1 }, bench: true },
  ],
  tolerance: 2e-6,
  cuda: {
    workspace: ({ rows, cols }) => 4 * Math.ceil(rows! / 32) * cols!,
    launches: ({ rows, cols }) => [
      ...(inEights(cols!)
        ? [{ entry: 'eights', grid: Math.ceil(rows! / 32), block: threadsOf(cols!) }]
        : [
            { entry: 'dx', grid: Math.ceil(rows! / 8), block: 256 },
            { entry: 'partial', grid: [Math.ceil(cols! / 64), Math.ceil(rows! / 32)] as const, block: 64 },
          ]),
      { entry: 'dw', grid: Math.ceil(cols! / 32), block: 1024 },
    ],
  },
})
