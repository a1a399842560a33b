import { describe, it } from 'node:test'
import { add } from '../src/ops/add.ts'
import { embedding } from '../src/ops/embedding.ts'
import { residualNorm, rmsNorm } from '../src/ops/rms_norm.ts'
import { squaredRelu } from '../src/ops/squared_relu.ts'
import { bothBackends } from './backends.ts'
import { checkBackends, checkGradients, type OpCheck } from './gradients.ts'

const awayFromZero = (size: number) => Float32Array.from({ length: size }, (_, i) => ((i % 7) - 3.4) / 2)

const ops: Record<string, OpCheck> = {
  'rms_norm, then again on the same input': {
    inputs: [[5, 48]],
    parameters: [[48], [48]],
    build: (tape, [x], [w, v]) => add(tape, rmsNorm(tape, x!, w!, 1e-5), rmsNorm(tape, x!, v!, 1e-5)),
  },
  'residual sum and norm, both read': {
    inputs: [
      [5, 48],
      [5, 48],
    ],
    parameters: [[48]],
    build(tape, [x, branch], [w]) {
      const { sum, normed } = residualNorm(tape, x!, branch, w!, 1e-5)
      return add(tape, normed, sum)
    },
  },
  embedding: {
    inputs: [],
    parameters: [[6, 20]],
    build: (tape, _, [w]) => embedding(tape, tape.allocate('i32', [4]).write(Int32Array.of(5, 0, 2, 5)), w!),
  },
  squared_relu: {
    inputs: [[4, 21]],
    values: [awayFromZero(84)],
    build: (tape, [x]) => squaredRelu(tape, x!),
  },
  'add, a residual branch': {
    inputs: [[5, 16]],
    parameters: [[16]],
    build: (tape, [x], [w]) => add(tape, x!, rmsNorm(tape, x!, w!, 1e-5)),
  },
  'add, a value to itself': {
    inputs: [[3, 16]],
    build: (tape, [x]) => add(tape, x!, x!),
  },
}

const { reference, cpu } = await bothBackends()

describe('basic ops', () => {
  for (const [name, check] of Object.entries(ops)) {
    it(`${name}: finite differences`, () => checkGradients(check))
    it(`${name}: cpu agrees with the reference`, () => checkBackends(check, reference, cpu))
  }
})
