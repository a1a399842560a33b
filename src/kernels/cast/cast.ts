import { defineKernel, input, output } from '../../tensor/kernel.ts'

/** y[i] = x[i], rounded to nearest-even where y is BF16 and x is not; an exact copy otherwise (docs/numerics.md, "BF16"). */
export const cast = defineKernel({
  name: 'cast',
  args: { y: output('float', 'size'), x: input('float', 'size') },
  reference({ y, x }) {
    y.set(x)
  },
  cases: [
    { dims: { size: 1 } },
    { dims: { size: 1037 } },
    {
      name: 'not finite',
      dims: { size: 40 },
      inputs: () => ({ x: Float32Array.from({ length: 40 }, (_, i) => [Number.NaN, -1 / 0, 3.4e38, -0][i % 4]!) }),
    },
    { dims: { size: 2048 * 1024 }, bench: true },
  ],
  tolerance: 0,
})
