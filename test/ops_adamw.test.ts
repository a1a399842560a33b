import assert from 'node:assert/strict'
import { it } from 'node:test'
import { referenceBackend } from '../src/backends/reference.ts'
import { adamw, adamwFlags } from '../src/kernels/adamw/adamw.ts'
import { gradientStatistics } from '../src/kernels/gradient_statistics/gradient_statistics.ts'
import { optimizerControl } from '../src/kernels/optimizer_control/optimizer_control.ts'
import { ones } from '../src/model/initialise.ts'
import { Parameters } from '../src/model/parameters.ts'
import { type DType, dtypes } from '../src/tensor/dtype.ts'
import { Tensor } from '../src/tensor/tensor.ts'
import { Optimizer } from '../src/train/optimizer.ts'

const near = (got: number, want: number, relative = 1e-5) =>
  assert.ok(Math.abs(got - want) <= relative * Math.abs(want), `got ${got}, wanted ${want}`)

it('three steps of statistics, control and AdamW follow the formulas in FP64', () => {
  const backend = referenceBackend()
  const tensor = (dtype: DType, ...shape: number[]) => {
    const size = shape.reduce((a, b) => a * b, 1)
    return new Tensor(backend, backend.alloc(Math.max(64, size * dtypes[dtype].bytes)), 0, dtype, shape)
  }
  const n = 32
  const w = tensor('f32', n).write(Float32Array.from({ length: n }, (_, i) => Math.cos(i)))
  const m = tensor('f32', n).zero()
  const v = tensor('f32', n).zero()
  const g = tensor('f32', n)
  const flags = tensor('u8', 2).write(Uint8Array.of(adamwFlags.decays, adamwFlags.cleared))
  const ends = tensor('u32', 2).write(Uint32Array.of(1, 2))
  const statistics = tensor('f32', 2, 4)
  const schedule = tensor('f32', 2)
  const control = tensor('f32', 8)

  const want = Array.from(w.floats(), value => ({ value, m: 0, v: 0 }))
  for (let t = 1; t <= 3; t++) {
    const gradient = Float32Array.from({ length: n }, (_, i) => Math.sin(i * t + 1) * (t === 2 ? 0.01 : 1))
    const rate = 0.1 / t
    g.write(gradient)
    schedule.write(Float32Array.of(rate, t))
    backend.run(gradientStatistics, { statistics, g, ends })
    backend.run(optimizerControl, { control, statistics, schedule, beta1: 0.9, beta2: 0.95, clip: 1 })
    const betas = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    backend.run(adamw, { w, m, v, g, flags, control, ...betas })

    const norm = Math.sqrt(gradient.reduce((sum, x) => sum + x * x, 0))
    near(control.floats()[4]!, norm)
    assert.equal(control.floats()[3]! < 1, t !== 2, 'the second gradient is below the clipping norm')
    for (const [i, state] of want.entries()) {
      const x = gradient[i]! * Math.min(1, 1 / norm)
      state.m = 0.9 * state.m + 0.1 * x
      state.v = 0.95 * state.v + 0.05 * x * x
      const update = state.m / (1 - 0.9 ** t) / (Math.sqrt(state.v / (1 - 0.95 ** t)) + 1e-8)
      state.value -= rate * (update + (i < 16 ? 0.1 * state.value : 0))
      near(w.floats()[i]!, state.value, 1e-4)
    }
    assert.deepEqual(g.floats(), gradient.fill(0, 16))
  }

  const before = w.floats()
  g.write(Float32Array.from({ length: n }, (_, i) => (i === 20 ? Number.NaN : 1)))
  backend.run(gradientStatistics, { statistics, g, ends })
  backend.run(optimizerControl, { control, statistics, schedule, beta1: 0.9, beta2: 0.95, clip: 1 })
  backend.run(adamw, { w, m, v, g, flags, control, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 })
  assert.deepEqual(Array.from(statistics.floats().subarray(4)), [15, 1, 1, 16])
  assert.equal(control.floats()[5], 0)
  assert.deepEqual(w.floats(), before, 'a gradient that is not finite changes nothing')
})

it('a gradient that stays the same moves weights by the learning rate at every step, and those that decay towards zero', () => {
  const specs = [
    { name: 'matrix', shape: [3, 16], initialise: ones, decay: true, linear: true as const },
    { name: 'norm', shape: [20], initialise: ones, decay: false },
  ]
  const parameters = new Parameters(referenceBackend(), specs, 1)
  const config = { lr: 1, beta1: 0.9, beta2: 0.95, eps: 1e-12, weight_decay: 0.1, clip: 1 }
  const optimizer = new Optimizer(parameters, config)
  const want = { matrix: 1, norm: 1 }
  for (let step = 0; step < 4; step++) {
    const rate = 0.1 * (step + 1)
    for (const { gradient, shape } of parameters.all) {
      const sign = shape.length > 1 ? 1 : -1
      gradient.write(new Float32Array(gradient.size).fill(sign * 0.01))
    }
    optimizer.schedule(step, rate)
    optimizer.update()
    want.matrix -= rate * (1 + 0.1 * want.matrix)
    want.norm += rate
    for (const [name, wanted] of Object.entries(want))
      for (const value of parameters.named(name).value.floats()) near(value, wanted)
    const { updated, norm, largest } = optimizer.report()()
    assert.ok(updated)
    near(norm, 0.01 * Math.sqrt(68))
    assert.equal(largest.name, 'matrix')
    // Products overwrite what others add to.
    assert.ok(
      parameters
        .named('matrix')
        .gradient.floats()
        .every(g => g !== 0),
    )
    assert.ok(
      parameters
        .named('norm')
        .gradient.floats()
        .every(g => g === 0),
    )
  }
  const { gradient } = parameters.named('matrix')
  gradient.write(new Float32Array(gradient.size).fill(1e30))
  parameters.named('norm').gradient.write(new Float32Array(20).fill(1))
  optimizer.update()
  const { finite, updated, nonFinite } = optimizer.report()()
  assert.deepEqual([finite, updated, nonFinite], [false, false, []], 'a norm beyond FP32')
})

it('the norm of each gradient, its share of zeros, and the largest', () => {
  const parameters = new Parameters(
    referenceBackend(),
    ['first', 'second'].map(name => ({ name, shape: [16], initialise: ones, decay: false })),
    1,
  )
  const optimizer = new Optimizer(parameters, { lr: 1, beta1: 0.9, beta2: 0.95, eps: 1e-12, weight_decay: 0, clip: 1 })
  for (const most of ['first', 'second']) {
    for (const { name, gradient } of parameters.all) {
      // Many ones outweigh a single two.
      const [value, count] = name === most ? [1, 9] : [2, 1]
      gradient.write(new Float32Array(gradient.size).fill(value, 0, count))
    }
    optimizer.schedule(0, 1)
    optimizer.update()
    assert.deepEqual(optimizer.report()().largest, { name: most, norm: 3 })
    assert.deepEqual(optimizer.gradients().get(most), { norm: 3, zeros: 7 / 16 })
  }
})
