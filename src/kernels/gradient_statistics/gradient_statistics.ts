import { defineKernel, input, output } from '../../tensor/kernel.ts'

/**
 * What the guards and the clipping of a step need to know of each parameter's gradient. Segment i of g ends before element
 * 16 * ends[i] and starts where the one before ends. Over its values:
 *
 *   statistics[i] = [sum of squares, largest magnitude, number of values that are not finite, number that are not zero]
 *
 * The first two are over finite values. Sums of squares are in FP64, within pieces of 65,536 elements, then over these. Counts are exact below
 * 2^24 and never 0 where there is one.
 */
export const gradientStatistics = defineKernel({
  name: 'gradient_statistics',
  args: {
    statistics: output('f32', 'segments', 4),
    g: input('f32', 'n'),
    ends: input('u32', 'segments'),
  },
  reference({ statistics, g, ends }, { segments }) {
    for (let s = 0, i = 0; s < segments!; s++) {
      let squares = 0
      let largest = 0
      let infinite = 0
      let nonzero = 0
      for (; i < 16 * ends[s]!; i++) {
        const x = g[i]!
        if (x !== 0) nonzero++
        if (!Number.isFinite(x)) infinite++
        else {
          squares += x * x
          largest = Math.max(largest, Math.abs(x))
        }
      }
      statistics.set([squares, largest, infinite, nonzero], 4 * s)
    }
  },
  cases: [
    { dims: { segments: 1, n: 16 }, inputs: () => ({ ends: Uint32Array.of(1) }) },
    // Beside large squares counts would be lost in the tolerance.
    ...[3, 3e18].map(size => ({
      name: `an empty segment, zeros, and values up to ${size} and not finite`,
      dims: { segments: 4, n: 96 },
      inputs: () => ({
        ends: Uint32Array.of(2, 2, 3, 6),
        g: Float32Array.from({ length: 96 }, (_, i) =>
          i < 32 ? i - 5 : i < 48 ? (i % 2 ? -0 : 0) : [Number.NaN, Number.POSITIVE_INFINITY, -size, 1e-30][i % 4]!,
        ),
      }),
    })),
    { dims: { segments: 2, n: 16 * 9001 }, inputs: () => ({ ends: Uint32Array.of(30, 9001) }) },
    {
      name: 'more segments than a block has threads',
      dims: { segments: 300, n: 16 * 29_997 },
      inputs: () => ({
        ends: Uint32Array.from({ length: 300 }, (_, s) => (s < 290 ? s * 3 : 900 + (s - 290) * 3_233)),
      }),
    },
    { dims: { segments: 1, n: 2 ** 22 }, inputs: () => ({ ends: Uint32Array.of(2 ** 18) }), bench: true },
  ],
  tolerance: 1e-6,
  cuda: {
    // A segment's last piece may be short, so there are at most as many more pieces as segments.
    workspace: ({ n, segments }) => 24 * (Math.ceil(n! / 65536) + segments!),
    launches: ({ n, segments }) => [
      { entry: 'measure', grid: Math.ceil(n! / 65536) + segments!, block: 256 },
      { entry: 'add', grid: segments!, block: 256 },
    ],
  },
})
