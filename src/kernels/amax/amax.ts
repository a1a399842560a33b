import { rotate, transpose } from '../../formats/hadamard.ts'
import { Stream } from '../../formats/philox.ts'
import { amaxOf, amaxOfRows } from '../../formats/quantize.ts'
import { type Dims, defineKernel, i32, input, optional, output } from '../../tensor/kernel.ts'
import { fewBlocks } from '../shared/blocks.ts'
import { mapped, mappingArgs } from '../shared/mapping.ts'

/**
 * amax = [max |x|, NaN ignored; 1 if any x is not finite, else 0] (docs/numerics.md, "Amax"). FP4 conversion turns NaN and infinity into
 * ordinary numbers, so this pass is where a divergence is still seen.
 */
export const amax = defineKernel({
  name: 'amax',
  args: { amax: output('f32', 2), x: input('act', 'rows', 'cols') },
  reference({ amax, x }) {
    amaxOf(x, amax)
  },
  cases: [
    { dims: { rows: 1, cols: 1 } },
    { dims: { rows: 7, cols: 33 } },
    { dims: { rows: 130, cols: 272 } },
    ...[Number.NaN, Number.POSITIVE_INFINITY, 0].map((value, i) => ({
      name: `${value}`,
      dims: { rows: 65, cols: 80 },
      inputs: (dims: Dims) => ({ x: withValue(dims, value, i * 1000 + 7) }),
    })),
    {
      name: 'zero',
      dims: { rows: 2, cols: 16 },
      inputs: () => ({ x: new Float32Array(32).fill(-0) }),
    },
    {
      name: 'NaN and infinity',
      dims: { rows: 2, cols: 80 },
      inputs: () => ({
        x: Float32Array.from({ length: 160 }, (_, i) => [Number.NaN, Number.NEGATIVE_INFINITY, 1][i % 3]!),
      }),
    },
    { dims: { rows: 2048, cols: 1024 }, bench: true },
  ],
  tolerance: 0,
  cuda: fewBlocks(528),
})

function withValue({ rows, cols }: Dims, value: number, at: number): Float32Array {
  const random = new Stream(3, at)
  const x = Float32Array.from({ length: rows! * cols! }, () => random.normal())
  x[at] = value
  return x
}

/** `amax` of the rotated matrix, along the columns of each row or, if `columns` is 1, along the rows of each column: see `rotate`. */
export const amaxRotated = defineKernel({
  name: 'amax_rotated',
  args: {
    amax: output('f32', 2),
    x: input('act', 'rows', 'cols'),
    signs: input('u32', 'sign_words'),
    hadamard: i32,
    columns: i32,
  },
  reference({ amax, x, signs, hadamard, columns }, { rows, cols }, act) {
    const options = { size: hadamard, signs, bf16: act === 'bf16' }
    const z = columns ? rotate(transpose(x, rows!, cols!), cols!, rows!, options) : rotate(x, rows!, cols!, options)
    amaxOf(z, amax)
  },
  cases: [
    ...[4, 16, 32, 64, 128].flatMap(hadamard => [
      { dims: { rows: 3, cols: 128, sign_words: 4 }, scalars: { hadamard, columns: 0 } },
      { dims: { rows: 256, cols: 37, sign_words: 4 }, scalars: { hadamard, columns: 1 } },
    ]),
    {
      name: 'NaN',
      dims: { rows: 48, cols: 80, sign_words: 4 },
      scalars: { hadamard: 16, columns: 1 },
      inputs: dims => ({ x: withValue(dims, Number.NaN, 345) }),
    },
    { dims: { rows: 48, cols: 128, sign_words: 4 }, scalars: { hadamard: 16, columns: 1 } },
    {
      name: 'NaN in whole tiles',
      dims: { rows: 48, cols: 128, sign_words: 4 },
      scalars: { hadamard: 16, columns: 1 },
      inputs: dims => ({ x: withValue(dims, Number.NaN, 345) }),
    },
    { dims: { rows: 2048, cols: 1024, sign_words: 4 }, scalars: { hadamard: 16, columns: 1 }, bench: true },
  ],
  tolerance: 0,
  cuda: fewBlocks(528),
})

/** `amax` of x as mapped, and as amax_t that of the same rotated along the rows of each column if `hadamard` is not 0, in one pass over x. */
export const amaxBoth = defineKernel({
  name: 'amax_both',
  args: {
    amax: output('f32', 2),
    amax_t: output('f32', 2),
    x: input('act', 'rows', 'cols'),
    ...mappingArgs,
    signs: optional(input('u32', 'sign_words')),
    hadamard: i32,
  },
  reference({ amax, amax_t, x, signs, hadamard, ...mapping }, { rows, cols }, act) {
    const options = { size: hadamard, signs: signs!, bf16: act === 'bf16' }
    const z = mapped(x, mapping, { cols: cols! }, act)
    amaxOf(z, amax)
    amaxOf(hadamard ? rotate(transpose(z, rows!, cols!), cols!, rows!, options) : z, amax_t)
  },
  cases: [
    { dims: { rows: 7, cols: 33 }, scalars: { hadamard: 0, squared: 0 } },
    ...[4, 16, 32, 64, 128].map(hadamard => ({
      dims: { rows: 256, cols: 37, sign_words: 4 },
      scalars: { hadamard, squared: 0 },
      with: ['signs' as const],
    })),
    ...[Number.NaN, Number.NEGATIVE_INFINITY].map((value, i) => ({
      name: `${value}`,
      dims: { rows: 48, cols: 300, sign_words: 4 },
      scalars: { hadamard: 16, squared: 0 },
      with: ['signs' as const],
      inputs: (dims: Dims) => ({ x: withValue(dims, value, 345 + 9000 * i) }),
    })),
    ...[33, 128].flatMap(cols =>
      [0, 16, 64].flatMap(hadamard =>
        [0, 1].map(squared => ({
          name: squared ? 'squared' : 'normalised',
          dims: { rows: 192, cols, sign_words: 4 },
          scalars: { hadamard, squared },
          with: squared ? ['signs' as const] : ['signs' as const, 'inverse' as const, 'w' as const],
        })),
      ),
    ),
    ...[0, 16].map(hadamard => ({
      name: 'squared, of which one is infinite',
      dims: { rows: 48, cols: 64, sign_words: 4 },
      scalars: { hadamard, squared: 1 },
      with: ['signs' as const],
      inputs: (dims: Dims) => ({ x: withValue(dims, 1e30, 345) }),
    })),
    ...[0, 1].map(squared => ({
      dims: { rows: 2048, cols: 1024, sign_words: 4 },
      scalars: { hadamard: 16, squared },
      with: ['signs' as const],
      bench: true as const,
    })),
    {
      name: 'normalised',
      dims: { rows: 2048, cols: 1024, sign_words: 4 },
      scalars: { hadamard: 16, squared: 0 },
      with: ['signs', 'inverse', 'w'],
      bench: true,
    },
  ],
  tolerance: 0,
  cuda: fewBlocks(528),
})

/**
 * The largest magnitude of each row of x, or of each column if `columns` is 1, and `amax` of the whole; all of the rotated matrix if `hadamard` is
 * not 0. `lines` is rows or cols.
 */
export const amaxLines = defineKernel({
  name: 'amax_lines',
  args: {
    largest: output('f32', 'lines'),
    amax: output('f32', 2),
    x: input('act', 'rows', 'cols'),
    signs: optional(input('u32', 'sign_words')),
    hadamard: i32,
    columns: i32,
  },
  reference({ largest, amax, x, signs, hadamard, columns }, { rows, cols, lines }, act) {
    const length = columns ? rows! : cols!
    let z = columns ? transpose(x, rows!, cols!) : x
    if (hadamard) z = rotate(z, lines!, length, { size: hadamard, signs: signs!, bf16: act === 'bf16' })
    largest.set(amaxOfRows(z, lines!, length))
    amaxOf(z, amax)
  },
  cases: [
    { dims: { rows: 5, cols: 48, lines: 5 }, scalars: { hadamard: 0, columns: 0 } },
    {
      name: 'zero',
      dims: { rows: 2, cols: 16, lines: 2 },
      scalars: { hadamard: 0, columns: 0 },
      inputs: () => ({ x: new Float32Array(32).fill(-0) }),
    },
    { dims: { rows: 80, cols: 48, lines: 48 }, scalars: { hadamard: 0, columns: 1 } },
    {
      dims: { rows: 5, cols: 64, lines: 5, sign_words: 4 },
      scalars: { hadamard: 64, columns: 0 },
      with: ['signs'],
    },
    {
      name: 'NaN',
      dims: { rows: 144, cols: 48, lines: 48, sign_words: 4 },
      scalars: { hadamard: 16, columns: 1 },
      with: ['signs'],
      inputs: dims => ({ x: withValue(dims, Number.NaN, 345) }),
    },
  ],
  tolerance: 0,
})
