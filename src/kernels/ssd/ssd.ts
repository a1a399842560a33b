import { type Dims, defineKernel, i32, inout, input, output } from '../../tensor/kernel.ts'
import { documentStarts } from '../shared/documents.ts'
import { cuda } from './ssd.cuda.ts'

/** What the forward pass reads, and the backward pass again. */
const read = {
  xbc: input('act', 'rows', 'channels'),
  projection: input('act', 'rows', 'width'),
  dtBias: input('f32', 'heads'),
  aLog: input('f32', 'heads'),
  skip: input('f32', 'heads'),
  starts: input('i32', 'rows'),
  offset: i32,
  groups: i32,
  state: i32,
  chunk: i32,
  sequence: i32,
} as const

/**
 * The state-space recurrence of Mamba-2 (docs/numerics.md, "Block maths" and "Chunked SSD"). Rows are batch * sequence tokens. A row of
 * `xbc` is [x: heads * P | B: groups * N | C: groups * N], N = state, P = inner / heads; `projection` holds dt, one value for each
 * head, from column `offset` on. For each head h, of group h / (heads / groups):
 *
 *   D_t = softplus(dt_t + dtBias)  (x itself above 20)          A = -exp(aLog)
 *   S_t = exp(D_t A) S_{t-1} + D_t x_t B_t^T    (P x N)         y_t = S_t C_t + skip x_t
 *
 * starts[r] in 0 .. t is the position, within its sequence, of the first token whose history row r may see: 0, or where its
 * document begins, the same for all rows of a document. S is 0 before it.
 *
 * The reference is the recurrence. Native code cuts each sequence in chunks of `chunk` tokens, the last may be shorter, and
 * computes each as matrix products; the result does not depend on `chunk` but for rounding.
 */
export const ssd = defineKernel({
  name: 'ssd',
  args: {
    y: output('act', 'rows', 'inner'),
    ...read,
  },
  reference(values, { rows, inner, channels, width, heads }) {
    const { y, xbc, projection, dtBias, aLog, skip, starts, offset, groups, state, sequence } = values
    const headDim = inner! / heads!
    const S = new Float64Array(headDim * state)
    for (let h = 0; h < heads!; h++) {
      const A = -Math.exp(aLog[h]!)
      const b = inner! + Math.floor((h * groups) / heads!) * state
      const c = b + groups * state
      for (let r = 0; r < rows!; r++) {
        if (r % sequence === starts[r]) S.fill(0)
        const delta = softplus(projection[r * width! + offset + h]! + dtBias[h]!)
        const decay = Math.exp(delta * A)
        for (let p = 0; p < headDim; p++) {
          const x = xbc[r * channels! + h * headDim + p]!
          let sum = skip[h]! * x
          for (let n = 0; n < state; n++) {
            S[p * state + n] = decay * S[p * state + n]! + delta * x * xbc[r * channels! + b + n]!
            sum += S[p * state + n]! * xbc[r * channels! + c + n]!
          }
          y[r * inner! + h * headDim + p] = sum
        }
      }
    }
  },
  cases: casesOf({}),
  tolerance: 1e-5,
  flops: forwardOperations,
  cuda: cuda(false),
})

/**
 * With g_t = dy_t, the adjoint of the recurrence, backwards from G = 0 after the end of each document:
 *
 *   G_t = g_t C_t^T + exp(D_{t+1} A) G_{t+1}           da_t = exp(D_t A) <G_t, S_{t-1}>
 *   dx_t = D_t G_t B_t + skip g_t         dB_t = D_t G_t^T x_t         dC_t = S_t^T g_t       (dB, dC summed over a group's heads)
 *   dD_t = x_t^T G_t B_t + A da_t         ddt_t = dD_t sigmoid(dt_t + dtBias)
 *   ddtBias += sum_t ddt_t       daLog += A sum_t D_t da_t       dskip += sum_t <g_t, x_t>
 *
 * `accumulate` 1 adds to dxbc, 0 overwrites it. ddt overwrites columns offset .. offset+heads-1 of `dprojection` and no others: the
 * ops that read slices of a projection each overwrite the gradient of their own slice. Gradients of parameters are always added to.
 */
export const ssdBackward = defineKernel({
  name: 'ssd_backward',
  args: {
    dxbc: inout('act', 'rows', 'channels'),
    dprojection: inout('act', 'rows', 'width'),
    ddtBias: inout('f32', 'heads'),
    daLog: inout('f32', 'heads'),
    dskip: inout('f32', 'heads'),
    dy: input('act', 'rows', 'inner'),
    ...read,
    accumulate: i32,
  },
  reference(values, { rows, inner, channels, width, heads }) {
    const { dxbc, dprojection, ddtBias, daLog, dskip, dy, xbc, projection, dtBias, aLog, skip, starts } = values
    const { offset, groups, state, sequence, accumulate } = values
    const headDim = inner! / heads!
    const size = headDim * state
    if (!accumulate) dxbc.fill(0)
    for (let h = 0; h < heads!; h++) {
      const A = -Math.exp(aLog[h]!)
      const b = inner! + Math.floor((h * groups) / heads!) * state
      const c = b + groups * state
      const biased = (r: number) => projection[r * width! + offset + h]! + dtBias[h]!
      const begins = (r: number) => r % sequence === starts[r]
      let [dtBiasSum, aLogSum, skipSum] = [0, 0, 0]
      const entering = new Float64Array((sequence + 1) * size)
      for (let first = 0; first < rows!; first += sequence) {
        for (let t = 0; t < sequence; t++) {
          const row = (first + t) * channels!
          const at = t * size
          if (begins(first + t)) entering.fill(0, at, at + size)
          const delta = softplus(biased(first + t))
          const decay = Math.exp(delta * A)
          for (let p = 0; p < headDim; p++)
            for (let n = 0; n < state; n++) {
              const i = at + p * state + n
              entering[i + size] = decay * entering[i]! + delta * xbc[row + h * headDim + p]! * xbc[row + b + n]!
            }
        }
        const G = new Float64Array(size)
        for (let t = sequence - 1; t >= 0; t--) {
          const r = first + t
          const row = r * channels!
          const delta = softplus(biased(r))
          const decay = Math.exp(delta * A)
          let da = 0
          let xGB = 0
          for (let p = 0; p < headDim; p++) {
            const g = dy[r * inner! + h * headDim + p]!
            const x = xbc[row + h * headDim + p]!
            let GB = 0
            for (let n = 0; n < state; n++) {
              const i = p * state + n
              const B = xbc[row + b + n]!
              const S = decay * entering[t * size + i]! + delta * x * B
              G[i]! += g * xbc[row + c + n]!
              da += decay * G[i]! * entering[t * size + i]!
              GB += G[i]! * B
              dxbc[row + b + n]! += delta * G[i]! * x
              dxbc[row + c + n]! += S * g
              G[i]! *= begins(r) ? 0 : decay
            }
            dxbc[row + h * headDim + p]! += delta * GB + skip[h]! * g
            xGB += x * GB
            skipSum += g * x
          }
          const ddt = (xGB + A * da) / (1 + Math.exp(-biased(r)))
          dprojection[r * width! + offset + h] = ddt
          dtBiasSum += ddt
          aLogSum += A * delta * da
        }
      }
      ddtBias[h]! += dtBiasSum
      daLog[h]! += aLogSum
      dskip[h]! += skipSum
    }
  },
  cases: casesOf({ accumulate: 0 }).map((testCase, i) =>
    i % 2 === 1 && !testCase.bench ? { ...testCase, scalars: { ...testCase.scalars, accumulate: 1 } } : testCase,
  ),
  tolerance: 2e-5,
  flops: backwardOperations,
  cuda: cuda(true),
})

export function softplus(x: number): number {
  return x > 20 ? x : Math.log1p(Math.exp(x))
}

interface Sizes {
  batch: number
  sequence: number
  chunk: number
  heads: number
  headDim: number
  groups: number
  state: number
}

interface SsdCase {
  name: string
  dims: Dims
  scalars: Record<'offset' | 'groups' | 'state' | 'chunk' | 'sequence', number> & { accumulate?: 0 | 1 }
  inputs(): { dtBias: Float32Array; aLog: Float32Array; starts: Int32Array; projection?: Float32Array }
  bench?: true
  flops?: number
}

type Scalars = Pick<Sizes, 'groups' | 'state' | 'chunk' | 'sequence'>

/** Of the products with the triangle of a chunk, half of a square, and with states: the first chunk reads none, the last leaves none. */
function operations(
  triangles: number,
  products: number,
  states: number,
  { rows, inner }: Dims,
  { groups, state, chunk, sequence }: Scalars,
): number {
  const length = Math.min(chunk, sequence)
  const passed = 2 * state * (1 - length / sequence)
  return rows! * (triangles * groups * length * state + inner! * (products * length + states * passed))
}

function forwardOperations(dims: Dims, scalars: Scalars): number {
  return operations(1, 1, 2, dims, scalars)
}

function backwardOperations(dims: Dims, scalars: Scalars): number {
  return operations(3, 2, 5, dims, scalars)
}

/**
 * The same cases forward and backward. Where the name does not say otherwise D_t A is near 0.03, as after initialisation, so that
 * the state reaches over several chunks.
 */
function casesOf(more: { accumulate?: 0 | 1 }): SsdCase[] {
  const make = (
    name: string,
    sizes: Sizes,
    {
      documents,
      dtBias = -3,
      bursts,
    }: { documents?: readonly number[]; dtBias?: number; bursts?: readonly number[] } = {},
  ): SsdCase => {
    const { batch, sequence, chunk, heads, headDim, groups, state } = sizes
    const rows = batch * sequence
    const inner = heads * headDim
    const channels = inner + 2 * groups * state
    const offset = inner + channels
    const spread = (low: number, high: number) =>
      Float32Array.from({ length: heads }, (_, h) => low + ((high - low) * (h + 0.5)) / heads)
    return {
      name,
      dims: { rows, inner, channels, width: offset + heads, heads },
      scalars: { offset, groups, state, chunk, sequence, ...more },
      inputs: () => ({
        dtBias: spread(dtBias - 1, dtBias + 1),
        aLog: spread(-1.5, 0.5),
        starts: documents ? documentStarts(rows, sequence, documents) : new Int32Array(rows),
        ...(bursts && { projection: withBursts(rows, offset + heads, offset, bursts) }),
      }),
    }
  }
  const one = { batch: 1, sequence: 1, chunk: 16, heads: 1, headDim: 3, groups: 1, state: 2 }
  const small = { batch: 2, sequence: 41, chunk: 16, heads: 4, headDim: 8, groups: 2, state: 12 }
  const wide = { batch: 1, sequence: 150, chunk: 64, heads: 6, headDim: 20, groups: 1, state: 33 }
  const large = { batch: 1, sequence: 150, chunk: 130, heads: 2, headDim: 72, groups: 1, state: 70 }
  const many = { batch: 2, sequence: 330, chunk: 64, heads: 4, headDim: 16, groups: 2, state: 32 }
  const bench = { batch: 8, sequence: 256, chunk: 128, heads: 8, headDim: 64, groups: 2, state: 64 }
  const { batch, sequence, heads, headDim, state } = bench
  const count = 'accumulate' in more ? backwardOperations : forwardOperations
  const whole = make(`batch ${batch} x ${sequence}, ${heads} heads of ${headDim}, state ${state}`, bench)
  return [
    make('one token', one),
    make('whole chunks', { ...small, sequence: 32 }),
    make('a tail', small),
    make('a chunk of one token', { ...small, sequence: 9, chunk: 1 }),
    make('a sequence shorter than a chunk', { ...small, sequence: 5 }),
    make('a group of many heads', wide),
    make('documents', small, { documents: [3, 16, 1, 1, 20, 41, 16, 16, 9] }),
    make('documents of several chunks', wide, { documents: [64, 86] }),
    make('documents within one chunk', { ...small, chunk: 64 }, { documents: [7, 30, 4, 11] }),
    make('fast decay', small, { dtBias: 4 }),
    make('softplus beyond its threshold', { ...small, sequence: 20 }, { dtBias: 20 }),
    make('chunk, head and state above 64', large, { documents: [100, 50] }),
    { ...whole, bench: true, flops: count(whole.dims, whole.scalars) },
    // Rows that can be copied 16 bytes at a time, and more chunks than a GPU's kernels keep at once.
    make('many chunks in units of 16 bytes', many),
    make('many chunks in units of 16 bytes, documents', many, { documents: [130, 200, 70, 260] }),
    make('heads and states of the large presets', { ...many, batch: 1, heads: 2, headDim: 64, groups: 1, state: 128 }),
    // Backwards the sums over chunks that give daLog cancel, times such a D.
    ...('accumulate' in more ? [] : [make('slow decay after a token of much', small, { bursts: [2, 19, 43] })]),
  ]
}

/** dt of 0 for every head but 2000 in the rows given: l grows so large that its differences in one FP32 number would have lost their digits. */
function withBursts(rows: number, width: number, offset: number, bursts: readonly number[]): Float32Array {
  const projection = new Float32Array(rows * width)
  for (const row of bursts) projection.fill(2000, row * width + offset, (row + 1) * width)
  return projection
}
