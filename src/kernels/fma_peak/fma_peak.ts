import { defineKernel, i32, output } from '../../tensor/kernel.ts'

/**
 * Independent chains of fused multiply-adds on registers alone, sums[task, chain] = 1 * 1 added `iterations` times: the rate that products
 * of FP32 matrices are compared with. Each task is one thread's work.
 */
export const fmaPeak = defineKernel({
  name: 'fma_peak',
  args: { sums: output('f32', 'tasks', 192), iterations: i32 },
  reference({ sums, iterations }) {
    sums.fill(iterations)
  },
  cases: [
    { dims: { tasks: 3 }, scalars: { iterations: 1000 } },
    { dims: { tasks: 1 }, scalars: { iterations: 1_000_000 }, bench: true, flops: 2 * 192 * 1_000_000 },
  ],
  tolerance: 0,
})
