import { type Dims, defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'

/**
 * conv_silu for tokens that continue a sequence, one after another: `window` holds the inputs of the taps-1 = `kept` tokens before the first
 * row, oldest first, and afterwards those before the next. Zeros there are a sequence that begins. For each row r in turn, x being columns
 * offset .. offset+channels-1 of `projection`:
 *
 *   u[c] = bias[c] + sum_{j < kept} weight[c,0,j] * window[j,c] + weight[c,0,kept] * x[r,c]
 *   y[r,c] = u * sigmoid(u)          window = window[1 ..], x[r]
 */
export const convSiluStep = defineKernel({
  name: 'conv_silu_step',
  args: {
    y: output('act', 'rows', 'channels'),
    window: inout('act', 'kept', 'channels'),
    projection: input('act', 'rows', 'width'),
    weight: input('f32', 'channels', 1, 'taps'),
    bias: input('f32', 'channels'),
    offset: i32,
  },
  reference({ y, window, projection, weight, bias, offset }, { rows, channels, width, taps, kept }) {
    for (let r = 0; r < rows!; r++)
      for (let c = 0; c < channels!; c++) {
        const x = projection[r * width! + offset + c]!
        let u = bias[c]! + weight[c * taps! + kept!]! * x
        for (let j = 0; j < kept!; j++) {
          const seen = window[j * channels! + c]!
          u += weight[c * taps! + j]! * seen
          if (j > 0) window[(j - 1) * channels! + c] = seen
        }
        if (kept! > 0) window[(kept! - 1) * channels! + c] = x
        y[r * channels! + c] = u / (1 + Math.exp(-u))
      }
  },
  cases: [
    { dims: { rows: 1, channels: 5, width: 12, taps: 4, kept: 3 }, scalars: { offset: 3 } },
    { dims: { rows: 9, channels: 133, width: 190, taps: 4, kept: 3 }, scalars: { offset: 20 } },
    { dims: { rows: 2, channels: 300, width: 320, taps: 4, kept: 3 }, scalars: { offset: 16 } },
    { dims: { rows: 5, channels: 16, width: 16, taps: 2, kept: 1 }, scalars: { offset: 0 } },
    { dims: { rows: 2, channels: 20, width: 21, taps: 1, kept: 0 }, scalars: { offset: 1 } },
    { dims: { rows: 3, channels: 20, width: 21, taps: 7, kept: 6 }, scalars: { offset: 1 } },
    { dims: { rows: 1, channels: 4096, width: 8448, taps: 4, kept: 3 }, scalars: { offset: 4096 }, bench: true },
  ],
  tolerance: 2e-6,
  cuda: {
    launches: ({ channels }: Dims) => [{ entry: 'channels', grid: Math.ceil(channels! / 128), block: 128 }],
  },
})
