import type { CudaKernel } from '../../tensor/cuda.ts'
import { defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'

/** A thread for every eight elements. */
const eightEach: CudaKernel = { launches: ({ n }) => [{ grid: Math.ceil(n! / 2048), block: 256 }] }

/** y = max(x, 0)^2 (Primer, So et al. 2021). NaN stays NaN. */
export const squaredRelu = defineKernel({
  name: 'squared_relu',
  args: { y: output('act', 'n'), x: input('act', 'n') },
  reference({ y, x }, { n }) {
    for (let i = 0; i < n!; i++) {
      const positive = x[i]! < 0 ? 0 : x[i]!
      y[i] = positive * positive
    }
  },
  cases: [
    { dims: { n: 1 } },
    { dims: { n: 20_003 } },
    { dims: { n: 4 }, inputs: () => ({ x: Float32Array.of(Number.NaN, -0, Number.POSITIVE_INFINITY, -1e30) }) },
    { dims: { n: 2 ** 21 }, bench: true },
  ],
  tolerance: 0,
  cuda: eightEach,
})

/** dx (+)= 2 max(x, 0) dy; `accumulate` 1 adds to dx, 0 overwrites it. */
export const squaredReluBackward = defineKernel({
  name: 'squared_relu_backward',
  args: { dx: inout('act', 'n'), dy: input('act', 'n'), x: input('act', 'n'), accumulate: i32 },
  reference({ dx, dy, x, accumulate }, { n }) {
    for (let i = 0; i < n!; i++) {
      const positive = x[i]! < 0 ? 0 : x[i]!
      const value = Math.fround(2 * positive * dy[i]!)
      dx[i] = accumulate ? dx[i]! + value : value
    }
  },
  cases: [
    { dims: { n: 1 }, scalars: { accumulate: 0 } },
    { dims: { n: 20_003 }, scalars: { accumulate: 0 } },
    { dims: { n: 20_003 }, scalars: { accumulate: 1 } },
    { dims: { n: 2 ** 21 }, scalars: { accumulate: 0 }, bench: true },
  ],
  tolerance: 0,
  cuda: eightEach,
})
