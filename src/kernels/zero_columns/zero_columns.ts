import { defineKernel, i32, inout } from '../../tensor/kernel.ts'

/** Sets columns `first` .. width-1 of every row to zero and leaves the others. */
export const zeroColumns = defineKernel({
  name: 'zero_columns',
  args: { x: inout('act', 'rows', 'width'), first: i32 },
  reference({ x, first }, { rows, width }) {
    for (let r = 0; r < rows!; r++) x.fill(0, r * width! + first, (r + 1) * width!)
  },
  cases: [
    { dims: { rows: 1, width: 5 }, scalars: { first: 3 } },
    { dims: { rows: 700, width: 40 }, scalars: { first: 33 } },
    { dims: { rows: 4, width: 16 }, scalars: { first: 16 } },
    { dims: { rows: 2048, width: 1296 }, scalars: { first: 1288 }, bench: true },
  ],
  tolerance: 0,
})
