import { defineKernel, f32, i32, inout, input, optional } from '../../tensor/kernel.ts'

/**
 * Rotary position embedding (Su et al. 2021) of the first `rotated` heads of each row, in the half-split convention of Hugging Face's
 * Llama: element i < dim/2 of a head makes a pair with element i + dim/2. With the position t of the row within its sequence, counted on
 * from `first` where that is given, and
 * angle = t * base^(-2i/dim):
 *
 *   y[i] (+)= x[i] cos - x[i + dim/2] sin          y[i + dim/2] (+)= x[i + dim/2] cos + x[i] sin
 *
 * Other heads are copied. `inverse` 1 turns the other way, which is the backward pass; `accumulate` 1 adds to y, 0 overwrites it.
 */
export const rope = defineKernel({
  name: 'rope',
  args: {
    y: inout('act', 'rows', 'heads', 'dim'),
    x: input('act', 'rows', 'heads', 'dim'),
    first: optional(input('i32', 1)),
    base: f32,
    sequence: i32,
    rotated: i32,
    inverse: i32,
    accumulate: i32,
  },
  reference({ y, x, first, base, sequence, rotated, inverse, accumulate }, { rows, heads, dim }) {
    const half = dim! / 2
    for (let r = 0; r < rows!; r++)
      for (let h = 0; h < heads!; h++)
        for (let i = 0; i < half; i++) {
          const angle = h < rotated ? ((r % sequence) + (first?.[0] ?? 0)) * base ** (-i / half) : 0
          const cos = Math.cos(angle)
          const sin = inverse ? -Math.sin(angle) : Math.sin(angle)
          const low = (r * heads! + h) * dim! + i
          const a = x[low]!
          const b = x[low + half]!
          y[low] = (accumulate ? y[low]! : 0) + a * cos - b * sin
          y[low + half] = (accumulate ? y[low + half]! : 0) + b * cos + a * sin
        }
  },
  cases: [
    {
      dims: { rows: 3, heads: 3, dim: 2 },
      scalars: { base: 10000, sequence: 3, rotated: 2, inverse: 0, accumulate: 0 },
    },
    {
      dims: { rows: 74, heads: 4, dim: 24 },
      scalars: { base: 10000, sequence: 37, rotated: 3, inverse: 1, accumulate: 1 },
    },
    {
      name: 'late positions',
      dims: { rows: 9000, heads: 1, dim: 4 },
      scalars: { base: 500000, sequence: 9000, rotated: 1, inverse: 0, accumulate: 0 },
    },
    {
      name: 'later rows of a sequence',
      dims: { rows: 5, heads: 3, dim: 24 },
      scalars: { base: 10000, sequence: 5, rotated: 2, inverse: 0, accumulate: 0 },
      with: ['first'],
      inputs: () => ({ first: Int32Array.of(123) }),
    },
    {
      dims: { rows: 2048, heads: 12, dim: 128 },
      scalars: { base: 10000, sequence: 1024, rotated: 10, inverse: 0, accumulate: 0 },
      bench: true,
    },
  ],
  tolerance: 1e-6,
  cuda: {
    workspace: ({ dim }, { sequence }) => 4 * sequence! * dim!,
    launches: ({ rows, dim }, { sequence }) => [
      { entry: 'angles', grid: Math.ceil((sequence! * dim!) / 512), block: 256 },
      { entry: 'turn', grid: rows!, block: 256 },
    ],
  },
})
