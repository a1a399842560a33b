import { type Dims, defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'
import { softplus } from '../ssd/ssd.ts'

/**
 * ssd for tokens that continue a sequence, one after another: `states` [heads, headDim, state] holds S after the token before the first row,
 * and afterwards that after the last. Zeros there are a sequence that begins. Rows of `xbc` are [x | B | C], columns offset .. offset+heads-1 of
 * `projection` hold dt, and the recurrence is that of ssd.ts:
 *
 *   S = exp(D A) S + D x B^T          y = S C + skip x
 */
export const ssdStep = defineKernel({
  name: 'ssd_step',
  args: {
    y: output('act', 'rows', 'inner'),
    states: inout('f32', 'heads', 'head_dim', 'state'),
    xbc: input('act', 'rows', 'channels'),
    projection: input('act', 'rows', 'width'),
    dtBias: input('f32', 'heads'),
    aLog: input('f32', 'heads'),
    skip: input('f32', 'heads'),
    offset: i32,
    groups: i32,
  },
  reference(values, dims) {
    const { y, states, xbc, projection, dtBias, aLog, skip, offset, groups } = values
    const { rows, inner, channels, width, heads, head_dim: headDim, state } = dims
    for (let h = 0; h < heads!; h++) {
      const A = -Math.exp(aLog[h]!)
      const b = inner! + Math.floor((h * groups) / heads!) * state!
      const c = b + groups * state!
      for (let r = 0; r < rows!; r++) {
        const delta = softplus(projection[r * width! + offset + h]! + dtBias[h]!)
        const decay = Math.exp(delta * A)
        for (let p = 0; p < headDim!; p++) {
          const x = xbc[r * channels! + h * headDim! + p]!
          let sum = skip[h]! * x
          for (let n = 0; n < state!; n++) {
            const i = (h * headDim! + p) * state! + n
            states[i] = decay * states[i]! + delta * x * xbc[r * channels! + b + n]!
            sum += states[i]! * xbc[r * channels! + c + n]!
          }
          y[r * inner! + h * headDim! + p] = sum
        }
      }
    }
  },
  cases: [
    sizes(1, 1, 3, 5, 1),
    sizes(3, 4, 16, 16, 2),
    sizes(70, 6, 24, 40, 3),
    sizes(2, 3, 64, 128, 1),
    { ...sizes(1, 64, 64, 128, 8), bench: true },
  ],
  tolerance: 1e-5,
  cuda: {
    launches: ({ heads, head_dim: headDim }: Dims) => [
      { entry: 'heads', grid: [Math.ceil(headDim! / 8), heads!], block: 256 },
    ],
  },
})

function sizes(rows: number, heads: number, headDim: number, state: number, groups: number) {
  const inner = heads * headDim
  const channels = inner + 2 * groups * state
  const width = inner + channels + heads
  return {
    dims: { rows, inner, channels, width, heads, head_dim: headDim, state },
    scalars: { offset: inner + channels, groups },
    inputs: () => ({
      aLog: Float32Array.from({ length: heads }, (_, h) => Math.log(1 + h)),
      dtBias: new Float32Array(heads).fill(-3),
    }),
  }
}
