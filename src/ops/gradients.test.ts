import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { checkGradients, type OpCheck } from '../../test/gradients.ts'
import { rmsNorm } from './rms_norm.ts'
import { Var } from './tape.ts'

/** y = x^3 with a backward pass that is off by `factor`, and by `offset` where it should add to a gradient. */
const cube = (factor: number, offset: number): OpCheck => ({
  inputs: [[5]],
  build(tape, [x]) {
    const y = new Var(tape.allocate('f32', [5]).write(x!.value.floats().map(v => v ** 3)))
    tape.record(y, [x!.value], dy => {
      const { tensor, accumulate } = tape.gradientOf(x!)
      const before = accumulate ? tensor.floats().map(g => g + offset) : new Float32Array(5)
      const d = dy.floats()
      tensor.write(x!.value.floats().map((v, i) => before[i]! + factor * 3 * v * v * d[i]!))
    })
    return y
  },
})

describe('gradients', () => {
  it('are told right from wrong', () => {
    checkGradients(cube(1, 0))
    assert.throws(() => checkGradients(cube(1.01, 0)), /gradient of input 0\[\d\] is/)
    assert.throws(() => checkGradients(cube(1, 0.5)), /gradient of input 0\[\d\] when added is/)
  })

  it('rms_norm', () =>
    checkGradients({
      inputs: [[3, 20]],
      parameters: [[20]],
      build: (tape, [x], [w]) => rmsNorm(tape, x!, w!, 1e-5),
    }))
})
