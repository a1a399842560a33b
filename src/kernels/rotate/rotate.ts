import { rotate as rotateRows, transpose } from '../../formats/hadamard.ts'
import { defineKernel, i32, input, output } from '../../tensor/kernel.ts'

/**
 * Random Hadamard transform of x in groups of `hadamard` consecutive columns of a row, or rows of a column if `columns` is 1, in the
 * canonical order of src/formats/hadamard.ts: z_j = sum over i in order of h * s_i * (-1)^popcount(i & j) * x_i. The result has the dtype of x.
 */
export const rotate = defineKernel({
  name: 'rotate',
  args: {
    y: output('act', 'rows', 'cols'),
    x: input('act', 'rows', 'cols'),
    signs: input('u32', 'sign_words'),
    hadamard: i32,
    columns: i32,
  },
  reference({ y, x, signs, hadamard, columns }, { rows, cols }, act) {
    const options = { size: hadamard, signs, bf16: act === 'bf16' }
    if (!columns) rotateRows(x, rows!, cols!, options, y)
    else y.set(transpose(rotateRows(transpose(x, rows!, cols!), cols!, rows!, options), cols!, rows!))
  },
  cases: [4, 16, 32, 64, 128].flatMap(hadamard => [
    { dims: { rows: 3, cols: 128, sign_words: 4 }, scalars: { hadamard, columns: 0 } },
    { dims: { rows: 128, cols: 37, sign_words: 4 }, scalars: { hadamard, columns: 1 } },
  ]),
  tolerance: 0,
})
