import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { referenceBackend } from '../src/backends/reference.ts'
import { fromBf16, toBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { kernels } from '../src/kernels/index.ts'
import { documentStarts } from '../src/kernels/shared/documents.ts'
import { convSilu } from '../src/ops/conv_silu.ts'
import { gatedNorm } from '../src/ops/gated_norm.ts'
import { ssd } from '../src/ops/ssd.ts'
import { type Parameter, Tape, Var } from '../src/ops/tape.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import { checkBackends, checkGradients, type OpCheck } from './gradients.ts'

const floats = (tensor: Tensor): Float32Array => {
  const raw = tensor.read()
  return raw instanceof Uint16Array ? fromBf16(raw) : (raw as Float32Array)
}
const write = (tensor: Tensor, values: Float32Array) => tensor.write(tensor.dtype === 'bf16' ? toBf16(values) : values)

const untouched = 777

/**
 * `x` [rows, n] as columns offset .. offset+n-1 of a wider projection, whose other columns are NaN, and stay `untouched` in its
 * gradient: an op that reads or writes more than its own columns fails.
 */
function within(tape: Tape, x: Var, width: number, offset: number): Var {
  const [rows, n] = x.value.shape as [number, number]
  const wide = new Float32Array(rows * width).fill(Number.NaN)
  const values = floats(x.value)
  for (let r = 0; r < rows; r++) wide.set(values.subarray(r * n, (r + 1) * n), r * width + offset)
  const projection = new Var(tape.allocate('act', [rows, width]))
  write(projection.value, wide)
  tape.record(projection, [], gradient => {
    const found = floats(gradient)
    const { tensor, accumulate } = tape.gradientOf(x)
    const sum = accumulate ? floats(tensor) : new Float32Array(rows * n)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < width; c++) {
        const g = found[r * width + c]!
        if (c >= offset && c < offset + n) sum[r * n + c - offset]! += g
        else assert.ok(Math.abs(g - untouched) < 4, `column ${c} belongs to another op, its gradient became ${g}`)
      }
    write(tensor, sum)
  })
  if (tape.recording) write(tape.gradientOf(projection).tensor, new Float32Array(rows * width).fill(untouched))
  return projection
}

const normals = (size: number, scale: number, shift: number, stream: number): Float32Array => {
  const random = new Stream(11, stream)
  return Float32Array.from({ length: size }, () => shift + scale * random.normal())
}

const modes: [string, number[]][] = [
  ['one document per sequence', [9]],
  ['several documents', [2, 4, 1, 2, 5, 4]],
]
const rows = 18
const sequence = 9

describe('convSilu', () => {
  for (const [name, lengths] of modes)
    it(`gradients: ${name}`, () =>
      checkGradients({
        inputs: [[rows, 5]],
        parameters: [[5, 1, 4], [5]],
        build: (tape, [x], [weight, bias]) =>
          convSilu(tape, within(tape, x!, 9, 3), weight!, bias!, {
            offset: 3,
            sequence,
            starts: tape.allocate('i32', [rows]).write(documentStarts(rows, sequence, lengths)),
          }),
      }))

  it('sees neither later tokens nor other sequences nor other documents', () => {
    const run = (x: Float32Array) => {
      const tape = new Tape(referenceBackend(), 'f32')
      const parameter = (shape: number[], values: Float32Array): Parameter => {
        const value = tape.allocate('f32', shape).write(values)
        return { name: 'p', shape, value, gradient: value }
      }
      return tape.scope(() => {
        const projection = new Var(tape.allocate('f32', [8, 1]).write(x))
        const starts = tape.allocate('i32', [8]).write(documentStarts(8, 4, [4, 2, 2]))
        const weight = parameter([1, 1, 4], Float32Array.of(1, 2, 3, 4))
        const options = { offset: 0, sequence: 4, starts }
        const bias = parameter([1], Float32Array.of(0.5))
        return convSilu(tape, projection, weight, bias, options).value.floats()
      })
    }
    const silu = (u: number) => u / (1 + Math.exp(-u))
    // The first sequence is one document, the second is two of two tokens.
    const wanted = [4, 3, 2, 1, 4, 3, 0, 0].map(w => silu(w + 0.5))
    const got = run(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0))
    for (const [i, y] of wanted.entries()) assert.ok(Math.abs(got[i]! - y) < 1e-6, `row ${i} is ${got[i]}, not ${y}`)
  })
})

describe('gatedNorm', () => {
  for (const groups of [1, 2])
    it(`gradients: ${groups} groups`, () =>
      checkGradients({
        inputs: [
          [5, 12],
          [5, 12],
        ],
        parameters: [[12]],
        build: (tape, [y, z], [weight]) => gatedNorm(tape, y!, within(tape, z!, 17, 0), weight!, { groups, eps: 1e-5 }),
      }))
})

describe('ssd', () => {
  const sizes = { heads: 4, headDim: 3, groups: 2, state: 2, sequence }
  const xbc = [rows, 4 * 3 + 2 * 2 * 2]
  for (const [name, lengths] of modes)
    it(`gradients: ${name}`, () =>
      checkGradients({
        inputs: [xbc, [rows, 4]],
        parameters: [[4], [4], [4]],
        values: [undefined, undefined, normals(4, 0.5, -1, 1), normals(4, 0.5, 0, 2)],
        samples: 64,
        build: (tape, [x, dt], [dtBias, aLog, skip]) =>
          ssd(tape, x!, within(tape, dt!, 7, 2), dtBias!, aLog!, skip!, {
            ...sizes,
            offset: 2,
            chunk: 4,
            starts: tape.allocate('i32', [rows]).write(documentStarts(rows, sequence, lengths)),
          }),
      }))

  it('says what does not fit', () => {
    const tape = new Tape(referenceBackend(), 'f32')
    tape.scope(() => {
      const of = (...shape: number[]) => new Var(tape.allocate('f32', shape))
      const value = tape.allocate('f32', [4])
      const p: Parameter = { name: 'p', shape: [4], value, gradient: value }
      const starts = tape.allocate('i32', [rows])
      const options = { ...sizes, offset: 0, chunk: 4, starts }
      const run = (x: Var, projection: Var, changed: object) => () =>
        ssd(tape, x, projection, p, p, p, { ...options, ...changed })
      const x = of(...(xbc as [number, number]))
      assert.throws(run(x, of(rows, 4), { groups: 3 }), /4 heads cannot be shared out to 3 equal groups/)
      assert.throws(run(of(rows, 21), of(rows, 4), {}), /xbc has 21 columns, .* need 20/)
      assert.throws(run(x, of(rows, 4), { sequence: 7 }), /18 rows are not a whole number of sequences of 7/)
      assert.throws(run(x, of(rows, 4), { chunk: 0 }), /at least 1 token, got 0/)
      assert.throws(run(x, of(rows, 4), { offset: 1 }), /columns 1 .. 4 are outside a projection of 4 columns/)
    })
  })
})

/** Everything between the two linear layers of a Mamba-2 block. */
const mixer = (
  [heads, headDim, groups, state]: [number, number, number, number],
  [batch, sequence, chunk]: [number, number, number],
  lengths: number[],
): OpCheck => {
  const d = heads * headDim
  const channels = d + 2 * groups * state
  const width = d + channels + heads
  const rows = batch * sequence
  return {
    inputs: [[rows, width]],
    parameters: [[channels, 1, 4], [channels], [heads], [heads], [heads], [d]],
    values: [
      undefined,
      normals(channels * 4, 0.5, 0, 1),
      undefined,
      normals(heads, 1, -2, 2),
      normals(heads, 0.5, 0, 3),
    ],
    samples: 48,
    build(tape, [x], [weight, bias, dtBias, aLog, skip, norm]) {
      const projection = within(tape, x!, width, 0)
      const starts = tape.allocate('i32', [rows]).write(documentStarts(rows, sequence, lengths))
      const xbc = convSilu(tape, projection, weight!, bias!, { offset: d, sequence, starts })
      const options = { offset: d + channels, heads, headDim, groups, state, chunk, sequence, starts }
      const y = ssd(tape, xbc, projection, dtBias!, aLog!, skip!, options)
      return gatedNorm(tape, y, projection, norm!, { groups, eps: 1e-5 })
    },
  }
}

describe('the three together', () => {
  for (const [name, lengths] of modes) {
    it(`gradients: ${name}`, () => checkGradients(mixer([2, 3, 1, 2], [2, 9, 4], lengths)))
    it(`the cpu backend agrees: ${name}`, async () => {
      const cpu = await openBackend('cpu', kernels, { threads: 2 })
      try {
        checkBackends(mixer([6, 16, 2, 20], [2, 70, 32], [...lengths, 25, 45]), referenceBackend(), cpu, 3e-5)
      } finally {
        cpu.close()
      }
    })
  }
})
