import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { attention } from '../src/ops/attention.ts'
import { rope } from '../src/ops/rope.ts'
import { Tape, Var } from '../src/ops/tape.ts'
import { bothBackends } from './backends.ts'
import { checkBackends, checkGradients, type OpCheck, runOp, valuesOf } from './gradients.ts'

interface Sizes {
  sequence: number
  sequences: number
  heads: number
  kvHeads: number
  headDim: number
}

const check = (sizes: Sizes, start: (position: number) => number, base?: number): OpCheck => {
  const { sequence, sequences, heads, kvHeads, headDim } = sizes
  const rows = sequence * sequences
  return {
    inputs: [[rows, (heads + 2 * kvHeads) * headDim]],
    build(tape, [qkv]) {
      const starts = tape
        .allocate('i32', [rows])
        .write(Int32Array.from({ length: rows }, (_, r) => start(r % sequence)))
      const turned = base ? rope(tape, qkv!, { ...sizes, base }) : qkv!
      return attention(tape, turned, { ...sizes, starts })
    },
  }
}

const small: Sizes = { sequence: 6, sequences: 2, heads: 4, kvHeads: 2, headDim: 4 }
const long: Sizes = { sequence: 150, sequences: 2, heads: 4, kvHeads: 2, headDim: 20 }
const crossing = () => 0
const resetting = (position: number) => Math.floor(position / 4) * 4

const checks: Record<string, OpCheck> = {
  'causal over the sequence': check(small, crossing),
  'reset at documents': check(small, resetting),
  'one key head for each query head': check({ ...small, kvHeads: 4 }, crossing),
  'with rope': check(small, crossing, 100),
}

const { reference, cpu } = await bothBackends()

describe('attention', () => {
  for (const [name, spec] of Object.entries(checks)) {
    it(`${name}: finite differences`, () => checkGradients(spec))
    it(`${name}: cpu agrees with the reference`, () => checkBackends(spec, reference, cpu))
  }
  it('cpu agrees with the reference over several blocks of keys', () => {
    checkBackends(check(long, crossing, 10000), reference, cpu)
    checkBackends(
      check(long, position => Math.floor(position / 70) * 70),
      reference,
      cpu,
    )
  })

  it('sees neither later positions, nor other sequences, nor earlier documents', () => {
    const spec = check(small, resetting)
    const values = valuesOf(spec)
    const before = runOp(reference, 'f32', spec, values).output
    const width = small.heads * small.headDim
    const columns = values[0]!.length / 12
    // Row 5 is position 5 of the first sequence; documents are rows 0-3, 4-5, 6-9 and 10-11.
    for (let c = 0; c < columns; c++) values[0]![5 * columns + c]! += 1
    const after = runOp(reference, 'f32', spec, values).output
    const changed = Array.from({ length: 12 }, (_, r) =>
      before.subarray(r * width, (r + 1) * width).some((v, i) => v !== after[r * width + i]),
    )
    assert.deepEqual(
      changed.flatMap((c, r) => (c ? [r] : [])),
      [5],
    )
    for (let c = 0; c < columns; c++) values[0]![4 * columns + c]! += 1
    const both = runOp(reference, 'f32', spec, values).output
    assert.notDeepEqual(both.subarray(5 * width, 6 * width), after.subarray(5 * width, 6 * width))
  })

  it('rope makes scores depend on the distance alone', () => {
    const sizes = { heads: 1, kvHeads: 1, headDim: 8, sequence: 9 }
    const tape = new Tape(reference, 'f32')
    tape.scope(() => {
      const row = Float32Array.from({ length: 24 }, (_, i) => Math.sin(3 * i + 1))
      const all = Float32Array.from({ length: 9 * 24 }, (_, i) => row[i % 24]!)
      const turned = rope(tape, new Var(tape.allocate('f32', [9, 24]).write(all)), {
        ...sizes,
        base: 50,
      }).value.floats()
      const score = (q: number, k: number) => {
        let sum = 0
        for (let d = 0; d < 8; d++) sum += turned[q * 24 + d]! * turned[k * 24 + 8 + d]!
        return sum
      }
      assert.ok(Math.abs(score(8, 5) - score(4, 1)) < 1e-5)
      assert.ok(Math.abs(score(8, 5) - score(8, 6)) > 1e-2)
      assert.deepEqual(turned.subarray(0, 24), row, 'position 0 is not turned')
      assert.deepEqual(turned.subarray(8 * 24 + 16), row.subarray(16), 'values are not turned')
    })
    tape.reset()
  })

  it('names what does not fit', () => {
    const tape = new Tape(reference, 'f32')
    tape.scope(() => {
      const starts = tape.allocate('i32', [6]).zero()
      const qkv = new Var(tape.allocate('f32', [6, 32]).zero())
      const sizes = { heads: 4, kvHeads: 2, headDim: 4, sequence: 6 }
      assert.throws(() => attention(tape, qkv, { ...sizes, headDim: 5, starts }), /must have 40 columns .* got 32/)
      assert.throws(() => attention(tape, qkv, { ...sizes, sequence: 4, starts }), /multiple of the sequence 4, got 6/)
      assert.throws(() => attention(tape, qkv, { ...sizes, heads: 2, kvHeads: 3, starts }), /3 key heads must divide 2/)
    })
  })
})
