import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { headLoss, logits } from '../src/ops/head_loss.ts'
import { Tape, Var } from '../src/ops/tape.ts'
import { bothBackends } from './backends.ts'
import { checkBackends, checkGradients, type OpCheck, runOp, valuesOf } from './gradients.ts'

const targets = Int32Array.of(3, 0, -1, 16, 8, 8, 1)

/** The mean of the losses of 6 targets; `chunk` does not divide the rows. */
const check = (chunk: number, round = false): OpCheck => ({
  inputs: [[7, 24]],
  parameters: [[17, 24]],
  build(tape, [h], [w]) {
    const loss = tape.allocate('f32', [2]).write(Float32Array.of(0, 0))
    const scale = tape.allocate('f32', [1]).write(Float32Array.of(1))
    const wanted = tape.allocate('i32', [7]).write(targets)
    headLoss(tape, h!, { weight: w!, round }, wanted, { scale, loss, chunk })
    return loss
  },
})

const { reference, cpu } = await bothBackends()

describe('headLoss', () => {
  it('finite differences', () => checkGradients(check(3)))
  it('cpu agrees with the reference', () => {
    checkBackends(check(3), reference, cpu)
    checkBackends(check(3, true), reference, cpu)
  })

  it('does not depend on the chunk, counts targets, and loses -log p', () => {
    const values = valuesOf(check(3))
    const whole = runOp(reference, 'f32', check(7), values)
    const parts = runOp(reference, 'f32', check(2), values)
    assert.deepEqual(parts.output, whole.output)
    assert.deepEqual(parts.gradients[0], whole.gradients[0])
    assert.equal(whole.output[1], 6)

    const tape = new Tape(reference, 'f32')
    tape.recording = false
    tape.scope(() => {
      const h = new Var(tape.allocate('f32', [7, 24]).write(values[0]!))
      const value = tape.allocate('f32', [17, 24]).write(values[1]!)
      const weight = { name: 'w', shape: [17, 24], value, gradient: value }
      const scores = logits(tape, h, { weight, round: false }).value.floats()
      const losses = tape.allocate('f32', [7])
      const loss = tape.allocate('f32', [2]).zero()
      headLoss(tape, h, { weight, round: false }, tape.allocate('i32', [7]).write(targets), { loss, losses })
      const wanted = Array.from(targets, (target, r) => {
        const row = scores.subarray(r * 17, r * 17 + 17)
        return target < 0 ? 0 : Math.log(row.reduce((sum, l) => sum + Math.exp(l), 0)) - row[target]!
      })
      for (const [r, l] of losses.floats().entries()) assert.ok(Math.abs(l - wanted[r]!) < 1e-5)
      assert.equal(loss.floats()[0], whole.output[0])
      assert.deepEqual(value.floats(), values[1], 'without recording no gradient is written')
    })
    assert.equal(tape.arena.live, 0)
  })

  it('wants a scale where gradients are wanted', () => {
    const tape = new Tape(reference, 'f32')
    tape.scope(() => {
      const value = tape.allocate('f32', [4, 16]).zero()
      const loss = tape.allocate('f32', [2]).zero()
      const wanted = tape.allocate('i32', [1]).zero()
      const weight = { name: 'w', shape: [4, 16], value, gradient: value }
      const h = new Var(tape.allocate('f32', [1, 16]).zero())
      assert.throws(() => headLoss(tape, h, { weight, round: false }, wanted, { loss }), /scale must be f32\[1\]/)
    })
  })
})
