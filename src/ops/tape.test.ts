import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { referenceBackend } from '../backends/reference.ts'
import { Tape, Var } from './tape.ts'

const fails = (): never => {
  throw new Error('an op that fails')
}

describe('tape', () => {
  for (const [when, forward, backward] of [
    ['forward', fails, () => {}],
    ['backward', () => {}, fails],
  ] as const)
    it(`holds no memory after an op failed in the ${when} pass and it was reset`, () => {
      const tape = new Tape(referenceBackend(), 'f32')
      const step = () =>
        tape.scope(() => {
          const x = new Var(tape.allocate('f32', [4]))
          tape.record(x, [], () => {})
          for (const last of [false, true])
            tape.scope(() => {
              const y = new Var(tape.allocate('f32', [4]))
              tape.record(y, [x.value, tape.allocate('f32', [8])], () => {
                tape.gradientOf(x)
                if (!last) backward()
              })
              tape.gradientOf(y)
              if (last) forward()
            })
          tape.differentiate()
        })
      assert.throws(step, /an op that fails/)
      assert.ok(tape.arena.live > 0, 'records hold what they read')
      tape.reset()
      assert.equal(tape.arena.live, 0)
    })
})
