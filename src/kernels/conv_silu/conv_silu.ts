import { defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'
import { documentStarts } from '../shared/documents.ts'

/** What the forward pass reads, and the backward pass again. */
const read = {
  projection: input('act', 'rows', 'width'),
  weight: input('f32', 'channels', 1, 'taps'),
  bias: input('f32', 'channels'),
  starts: input('i32', 'rows'),
  offset: i32,
  sequence: i32,
} as const

const cases = [
  { dims: { rows: 1, channels: 5, width: 12, taps: 4 }, scalars: { offset: 3, sequence: 1 } },
  { dims: { rows: 14, channels: 33, width: 90, taps: 4 }, scalars: { offset: 20, sequence: 7 } },
  { dims: { rows: 150, channels: 300, width: 320, taps: 4 }, scalars: { offset: 16, sequence: 75 } },
  { dims: { rows: 20, channels: 16, width: 16, taps: 2 }, scalars: { offset: 0, sequence: 10 } },
  { dims: { rows: 24, channels: 20, width: 21, taps: 7 }, scalars: { offset: 1, sequence: 12 } },
  {
    name: 'documents',
    dims: { rows: 160, channels: 40, width: 100, taps: 4 },
    scalars: { offset: 10, sequence: 80 },
    inputs: () => ({ starts: documentStarts(160, 80, [1, 2, 3, 5, 51, 40]) }),
  },
  {
    name: 'many rows',
    dims: { rows: 602, channels: 36, width: 44, taps: 4 },
    scalars: { offset: 4, sequence: 301 },
    inputs: () => ({ starts: documentStarts(602, 301, [190, 2, 66, 1, 300]) }),
  },
  {
    dims: { rows: 2048, channels: 768, width: 1288, taps: 4 },
    scalars: { offset: 512, sequence: 256 },
    bench: true as const,
  },
]

/**
 * Causal depthwise convolution along each sequence, with bias, then SiLU (docs/numerics.md, "Block maths"). Rows are batch *
 * sequence tokens; t is the position of row r within its sequence; x is columns offset .. offset+channels-1 of `projection`.
 *
 *   u[r,c] = bias[c] + sum_j weight[c,0,j] * x[r - (taps-1) + j, c]    over j with t - (taps-1) + j >= starts[r]
 *   y[r,c] = u * sigmoid(u)
 *
 * starts[r] in 0 .. t is the position of the first token that row r may see: 0, or where its document begins.
 */
export const convSilu = defineKernel({
  name: 'conv_silu',
  args: {
    y: output('act', 'rows', 'channels'),
    ...read,
  },
  reference(values, { rows, channels, width, taps }) {
    for (let r = 0; r < rows!; r++)
      for (let c = 0; c < channels!; c++) {
        const u = convolved(values, width!, taps!, r, c)
        values.y[r * channels! + c] = u / (1 + Math.exp(-u))
      }
  },
  cases,
  tolerance: 2e-6,
  cuda: {
    launches: ({ rows, channels }) => [
      { entry: 'rows', grid: [Math.ceil(rows! / 128), Math.ceil(channels! / 128)], block: 128 },
    ],
  },
})

/**
 * With du[r,c] = dy[r,c] * s * (1 + u * (1 - s)), s = sigmoid(u), u computed anew:
 *
 *   dx[q,c] = sum_j weight[c,0,j] * du[q + (taps-1) - j, c]    over the rows of the sequence that see q
 *   dweight[c,0,j] += sum_r du[r,c] * x[r - (taps-1) + j, c]   over the rows that see it        dbias[c] += sum_r du[r,c]
 *
 * dx overwrites columns offset .. offset+channels-1 of `dprojection` and no others: the ops that read slices of a projection
 * each overwrite the gradient of their own slice.
 */
export const convSiluBackward = defineKernel({
  name: 'conv_silu_backward',
  args: {
    dprojection: inout('act', 'rows', 'width'),
    dweight: inout('f32', 'channels', 1, 'taps'),
    dbias: inout('f32', 'channels'),
    dy: input('act', 'rows', 'channels'),
    ...read,
  },
  reference(values, { rows, channels, width, taps }) {
    const { dprojection, dweight, dbias, dy, projection, weight, starts, offset, sequence } = values
    const dx = new Float64Array(rows!)
    const dwSum = new Float64Array(taps!)
    for (let c = 0; c < channels!; c++) {
      dx.fill(0)
      dwSum.fill(0)
      let biasSum = 0
      for (let r = 0; r < rows!; r++) {
        const u = convolved(values, width!, taps!, r, c)
        const s = 1 / (1 + Math.exp(-u))
        const du = dy[r * channels! + c]! * s * (1 + u * (1 - s))
        biasSum += du
        for (let j = 0; j < taps!; j++) {
          const back = taps! - 1 - j
          if ((r % sequence) - back < starts[r]!) continue
          dwSum[j]! += du * projection[(r - back) * width! + offset + c]!
          dx[r - back]! += du * weight[c * taps! + j]!
        }
      }
      for (let r = 0; r < rows!; r++) dprojection[r * width! + offset + c] = dx[r]!
      for (let j = 0; j < taps!; j++) dweight[c * taps! + j]! += dwSum[j]!
      dbias[c]! += biasSum
    }
  },
  cases,
  tolerance: 3e-6,
  cuda: {
    workspace: ({ rows, channels, taps }) => 4 * Math.ceil(rows! / 128) * (taps! + 1) * channels!,
    launches: ({ rows, channels, taps }) => [
      { entry: 'rows', grid: [Math.ceil(rows! / 128), Math.ceil(channels! / 128)], block: 128 },
      { entry: 'parameters', grid: Math.ceil(((taps! + 1) * channels!) / 32), block: 256 },
    ],
  },
})

interface Convolution {
  projection: Float32Array
  weight: Float32Array
  bias: Float32Array
  starts: Int32Array
  offset: number
  sequence: number
}

/** u[r,c]: the convolution before its activation. */
function convolved(values: Convolution, width: number, taps: number, r: number, c: number): number {
  const { projection, weight, bias, starts, offset, sequence } = values
  let u = bias[c]!
  for (let j = 0; j < taps; j++) {
    const back = taps - 1 - j
    if ((r % sequence) - back >= starts[r]!) u += weight[c * taps + j]! * projection[(r - back) * width + offset + c]!
  }
  return u
}
