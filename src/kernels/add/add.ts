import { defineKernel, input, output } from '../../tensor/kernel.ts'

/** y = a + b, each rounded once; y may be the same memory as a, as b or as both. */
export const add = defineKernel({
  name: 'add',
  args: { y: output('act', 'n'), a: input('act', 'n'), b: input('act', 'n') },
  reference({ y, a, b }, { n }) {
    for (let i = 0; i < n!; i++) y[i] = a[i]! + b[i]!
  },
  cases: [{ dims: { n: 1 } }, { dims: { n: 20_003 } }, { dims: { n: 2 ** 21 }, bench: true }],
  tolerance: 0,
})
