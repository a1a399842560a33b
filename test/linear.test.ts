import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { openBackend, packageRoot } from '../src/backends/open.ts'
import { roundBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { kernels } from '../src/kernels/index.ts'
import { add } from '../src/ops/add.ts'
import { dequantizeImage } from '../src/ops/image.ts'
import { linear, roles, streamOf } from '../src/ops/linear.ts'
import { rmsNorm } from '../src/ops/rms_norm.ts'
import { squaredRelu } from '../src/ops/squared_relu.ts'
import type { Parameter, Tape, Var } from '../src/ops/tape.ts'
import type { Recipe } from '../src/recipes/recipe.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { type ResolvedRecipe, resolveRecipe } from '../src/recipes/resolve.ts'
import { checkShape } from '../src/recipes/shapes.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { Kernel } from '../src/tensor/kernel.ts'
import { floatsOf, readSafetensors } from '../src/tensor/safetensors.ts'
import { LinearLayer } from './linear_layer.ts'

const normals = (size: number, stream: number): Float32Array => {
  const random = new Stream(9, stream)
  return Float32Array.from({ length: size }, () => random.normal())
}
const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0))
const distance = (a: Float32Array, b: Float32Array): number => norm(a.map((v, i) => v - b[i]!)) / norm(b)

/** What a recipe does to a layer of the first of a hundred blocks, which none keeps in BF16 there. */
const rulesOf = (recipe: Recipe): ResolvedRecipe =>
  resolveRecipe(recipe, [{ name: 'layers.9.mixer.up_proj', block: 9 }], { blocks: 100 }, 0, 1)[0]!

describe('linear', () => {
  const backends: Backend[] = []
  before(async () => {
    for (const name of ['reference', 'cpu']) backends.push(await openBackend(name, kernels, { threads: 2 }))
  })
  after(() => {
    for (const backend of backends) backend.close()
  })

  /** Plain products in FP64. */
  const exact = (x: Float32Array, w: Float32Array, dy: Float32Array, [n, k]: [number, number]) => {
    const tokens = x.length / k
    const y = new Float32Array(tokens * n)
    const dx = new Float32Array(tokens * k)
    const dw = new Float32Array(n * k)
    for (let t = 0; t < tokens; t++)
      for (let i = 0; i < n; i++)
        for (let j = 0; j < k; j++) {
          y[t * n + i]! += x[t * k + j]! * w[i * k + j]!
          dx[t * k + j]! += dy[t * n + i]! * w[i * k + j]!
          dw[i * k + j]! += dy[t * n + i]! * x[t * k + j]!
        }
    return { y, dx, dw }
  }

  it('without rounding is the three products', () => {
    const shape: [number, number] = [24, 40]
    const [x, w, dy] = [normals(10 * 40, 1), normals(24 * 40, 2), normals(10 * 24, 3)]
    const want = exact(x, w, dy, shape)
    for (const backend of backends) {
      const got = new LinearLayer(backend, rulesOf(findRecipe('fp32')), w, shape, 'f32').run(x, dy)
      for (const part of ['y', 'dx', 'dw'] as const) assert.ok(distance(got[part], want[part]) < 1e-6, part)
      const rounded = exact(x.map(roundBf16), w.map(roundBf16), dy.map(roundBf16), shape)
      const bf16 = new LinearLayer(backend, rulesOf(findRecipe('bf16')), w, shape, 'f32').run(x, dy)
      for (const part of ['y', 'dx', 'dw'] as const) assert.ok(distance(bf16[part], rounded[part]) < 1e-6, part)
    }
  })

  it('quantises what forward read again where the recipe says so', () => {
    const [x, w, dy] = [normals(128 * 128, 1), normals(128 * 128, 2), normals(128 * 128, 3)]
    for (const backend of backends) {
      const bench = new LinearLayer(backend, rulesOf(findRecipe('quartet2')), w, [128, 128], 'f32')
      bench.beginStep(3)
      const read: Record<string, unknown> = {}
      bench.state.watch = ({ role, values, image }) => {
        if (role === 'xRows' || role === 'wRows')
          read[role] = dequantizeImage(backend, bench.tape.allocate, image, 'f32').floats()
        if (role === 'xColumns' || role === 'wColumns') read[role] = values.floats()
      }
      bench.run(x, dy)
      assert.ok(read.xRows && read.wRows)
      assert.deepEqual(read.xColumns, read.xRows)
      assert.deepEqual(read.wColumns, read.wRows)
    }
  })

  it('adds to the gradient of an input that something else reads too', () => {
    const [x, w, dy] = [normals(10 * 32, 1), normals(32 * 32, 2), normals(10 * 32, 3)]
    const through = (gradient: Float32Array) => exact(x, w, gradient, [32, 32]).dx
    const outer = through(dy)
    const want = through(outer).map((value, i) => value + outer[i]!)
    for (const backend of backends) {
      const bench = new LinearLayer(backend, rulesOf(findRecipe('fp32')), w, [32, 32], 'f32')
      const { dx } = bench.run(x, dy, (tape, input) => add(tape, input, linear(tape, bench.layer, input)))
      assert.ok(distance(dx, want) < 1e-6)
    }
  })

  it('reads a norm or a square before it is made, with the bits of one that is', () => {
    const [tokens, k, n] = [128, 128, 128]
    const [x, w, dy] = [normals(tokens * k, 1), normals(n * k, 2), normals(tokens * n, 3)]
    for (const [name, deferred] of [
      ['nvfp4', true],
      ['mxfp4', true],
      ['quartet2', false],
      ['fp8', true],
      ['bf16', false],
    ] as const)
      for (const act of ['f32', 'bf16'] as const)
        for (const backend of backends) {
          const bench = new LinearLayer(backend, rulesOf(findRecipe(name)), w, [n, k], act)
          bench.beginStep(3)
          const parameter = { value: bench.tensor('f32', [k]).write(normals(k, 4)), gradient: bench.tensor('f32', [k]) }
          const ops = {
            rms_norm: (tape: Tape, input: Var) => rmsNorm(tape, input, parameter as unknown as Parameter, 1e-5),
            squared_relu: squaredRelu,
          }
          for (const [kernel, op] of Object.entries(ops)) {
            const label = `${name} ${act} ${backend.name} ${kernel}`
            const written: string[] = []
            let value: unknown
            const { run } = backend
            const counted = (called: Kernel, bindings: Record<string, unknown>) => {
              if (called.name === kernel && bindings.y) written.push(kernel)
              run.call(backend, called, bindings as never)
            }
            backend.run = counted as unknown as typeof run
            try {
              const alone = bench.run(x, dy, op)
              assert.equal(written.length, deferred ? 0 : 1, label)
              const made = bench.run(x, dy, (tape, input) => {
                const y = op(tape, input)
                value = y.value.read()
                return y
              })
              bench.state.watch = ({ role, values }) => {
                if (role === 'xRows') assert.deepEqual(values.read(), value, label)
              }
              const seen = bench.run(x, dy, op)
              bench.state.watch = undefined
              assert.deepEqual(alone, made, label)
              assert.deepEqual(seen, made, label)
            } finally {
              backend.run = run
            }
          }
        }
  })

  it('computes NVIDIA’s golden products to the bit, without stochastic rounding', () => {
    const folder = join(packageRoot(), 'test', 'golden')
    const { tensors } = readSafetensors(readFileSync(join(folder, 'linear.safetensors')))
    const names = new Set([...tensors.keys()].map(key => key.split('/')[0]!))
    assert.equal(names.size, 4)
    for (const name of names) {
      const floats = (part: string) => floatsOf(tensors.get(`${name}/${part}`)!)!
      const [, tokens, inputs, outputs] = /T(\d+)_K(\d+)_N(\d+)/.exec(name)!.map(Number) as [
        number,
        number,
        number,
        number,
      ]
      const base = rulesOf(findRecipe(name.includes('m6') ? 'nvfp4-te' : 'nvfp4'))
      const recipe: ResolvedRecipe = {
        ...base,
        dgrad: { ...base.dgrad, a: base.fprop.a },
        wgrad: { ...base.wgrad, a: base.fprop.a },
      }
      for (const backend of backends) {
        const bench = new LinearLayer(backend, recipe, floats('w'), [outputs, inputs], 'bf16')
        const { y, dx, dw } = bench.run(floats('x'), floats('dy'))
        assert.equal(y.length, tokens * outputs)
        assert.deepEqual(y, floats('y').map(roundBf16), `${name}: y on ${backend.name}`)
        assert.deepEqual(dw, floats('dw'), `${name}: dw on ${backend.name}`)
        if (tensors.has(`${name}/dx`))
          assert.deepEqual(dx, floats('dx').map(roundBf16), `${name}: dx on ${backend.name}`)
      }
    }
  })

  it('quantised is near the exact products and the same on every backend, whatever the recipe', () => {
    const shape: [number, number] = [128, 128]
    const [x, w, dy] = [normals(128 * 128, 1), normals(128 * 128, 2), normals(128 * 128, 3)]
    const want = exact(x, w, dy, shape)
    const names = [
      ...[
        'fp8',
        'mxfp8',
        'mxfp4',
        'nvfp4',
        'quartet2',
        'nvfp4-4over6',
        'nvfp4-rht-everywhere',
        'nvfp4-sr-all-backward',
      ],
      ...[
        'nvfp4-signs-fresh',
        'nvfp4-sr-on-weights',
        'nvfp4-weights-only-same-axis',
        'nvfp4-activations-only-same-axis',
      ],
      ...['nvfp4-activations-only-square', 'nvfp4-weights-only-other-axis', 'nvfp4-rht-128', 'nvfp4-rht-4'],
    ]
    for (const name of names) {
      const limit = name.includes('8') && !name.includes('128') ? 0.05 : 0.25
      const results = backends.map(backend => {
        const bench = new LinearLayer(backend, rulesOf(findRecipe(name)), w, shape, 'f32')
        bench.beginStep(3)
        return bench.run(x, dy)
      })
      for (const part of ['y', 'dx', 'dw'] as const) {
        const error = distance(results[0]![part], want[part])
        assert.ok(error > 1e-4 && error < limit, `${name}: ${part} is off by ${error}`)
        assert.ok(distance(results[1]![part], results[0]![part]) < 2e-6, `${name}: ${part} differs between backends`)
      }
    }
  })

  it('reads the same weights in both passes where tiles are square', () => {
    const shape: [number, number] = [32, 48]
    const w = normals(32 * 48, 2)
    const cpu = backends[1]!
    const bench = new LinearLayer(cpu, rulesOf(findRecipe('nvfp4')), w, shape, 'f32')
    // Unit vectors are exact in every image but for stochastic rounding, which leaves the largest element alone.
    const unit = (size: number, at: number) => Float32Array.from({ length: 16 * size }, (_, i) => (i === at ? 1 : 0))
    const single = new LinearLayer(cpu, rulesOf(findRecipe('nvfp4-plain')), w, shape, 'f32')
    const places = Array.from({ length: 16 }, (_, i) => [(5 * i) % 48, (3 * i) % 32] as const)
    /** Of how many places the forward pass reads another weight than the backward pass. */
    const differing = (layer: LinearLayer) =>
      places.filter(([input, output]) => {
        const { y, dx } = layer.run(unit(48, input), unit(32, output))
        return Math.abs(y[output]! - dx[input]!) > 1e-6 * Math.abs(dx[input]!)
      }).length
    assert.equal(differing(bench), 0)
    assert.ok(differing(single) > 4, 'blocks along other axes have other scales')
  })

  it('makes the images of a weight once, until it changes', () => {
    const shape: [number, number] = [32, 32]
    const bench = new LinearLayer(backends[1]!, rulesOf(findRecipe('nvfp4')), normals(1024, 2), shape, 'f32')
    const [x, dy] = [normals(16 * 32, 1), normals(16 * 32, 3)]
    const before = bench.run(x, dy).y
    bench.layer.weight.value.write(normals(1024, 4))
    assert.deepEqual(bench.run(x, dy).y, before)
    bench.layer.weightChanged()
    assert.notDeepEqual(bench.run(x, dy).y, before)
  })

  it('keeps quantising for the backward pass when fprop has gone to BF16', () => {
    const shape: [number, number] = [32, 32]
    const recipe = findRecipe('nvfp4-late-fprop')
    const site = [{ name: 'layers.0.mixer.up_proj', block: 0 }]
    const at = (step: number) => resolveRecipe(recipe, site, { blocks: 10 }, step, 100)[0]!
    const [x, w, dy] = [normals(16 * 32, 1), normals(1024, 2), normals(16 * 32, 3)]
    const [early, late] = [at(0), at(99)].map(rules => new LinearLayer(backends[1]!, rules, w, shape, 'f32').run(x, dy))
    const bf16 = new LinearLayer(backends[1]!, rulesOf(findRecipe('bf16')), w, shape, 'f32').run(x, dy)
    assert.deepEqual(late!.y, bf16.y)
    assert.deepEqual(late!.dx, early!.dx)
    assert.deepEqual(late!.dw, early!.dw)
  })

  it('has the bias that its rounding promises', () => {
    const shape: [number, number] = [128, 128]
    const [x, w, dy] = [normals(128 * 128, 1), normals(128 * 128, 2), normals(128 * 128, 3)]
    const cpu = backends[1]!
    /** Relative error of the mean over n steps, and the mean's projection on the truth. */
    const measure = (name: string) => {
      const bench = new LinearLayer(cpu, rulesOf(findRecipe(name)), w, shape, 'f32')
      const values = bench.tape.scope(() => bench.layer.forwardValues(bench.tape).floats())
      const want = exact(x, values, dy, shape).dx
      const sum = new Float64Array(want.length)
      const errors: number[] = []
      let shrinkage = 0
      for (let n = 1; n <= 64; n++) {
        bench.beginStep(n)
        bench.layer.weightChanged()
        const { dx } = bench.run(x, dy)
        for (let i = 0; i < sum.length; i++) sum[i]! += dx[i]!
        if (n !== 8 && n !== 64) continue
        const mean = Float32Array.from(sum, v => v / n)
        errors.push(distance(mean, want))
        shrinkage = mean.reduce((total, v, i) => total + v * want[i]!, 0) / norm(want) ** 2
      }
      return { fall: errors[0]! / errors[1]!, shrinkage }
    }
    // Errors of an unbiased estimate fall by the root of 8, 2.83.
    for (const name of ['nvfp4-headroom', 'quartet2']) {
      const { fall, shrinkage } = measure(name)
      assert.ok(fall > 2.6 && fall < 3.1, `${name}: the error of the mean falls by ${fall}`)
      assert.ok(Math.abs(shrinkage - 1) < 0.003, `${name}: shrinkage ${shrinkage}`)
    }
    // Scales rounded down saturate the largest elements.
    const { shrinkage } = measure('nvfp4')
    assert.ok(shrinkage > 0.99 && shrinkage < 0.998, `nvfp4: shrinkage ${shrinkage}`)
  })

  it('has a random stream for every layer, role and micro-batch', () => {
    const streams = [0, 1, 10_921].flatMap(index =>
      roles.flatMap(role => [0, 1, 65_535].map(microBatch => streamOf(index, role, microBatch))),
    )
    assert.equal(new Set(streams).size, 3 * roles.length * 3)
    for (const stream of streams) assert.equal(stream >>> 0, stream)
    assert.throws(() => streamOf(0, 'xRows', 65_536), /micro-batch 65536: streams tell 65536 of a step apart/)
    assert.throws(() => streamOf(10_922, 'xRows', 0), /linear layer 10922: streams tell 10922 layers apart/)
  })

  it('says which size does not fit', () => {
    const site = { name: 'layers.9.mixer.up_proj', block: 9 }
    const check = (recipe: string, rows: number, cols: number, tokens: number) => () =>
      checkShape(rulesOf(findRecipe(recipe)), { ...site, rows, cols }, tokens)
    assert.throws(
      check('nvfp4', 40, 32, 32),
      /layers\.9\.mixer\.up_proj: 40 output features are not a multiple of 16.*nearest that works is 48/,
    )
    assert.throws(check('nvfp4-plain', 32, 24, 32), /24 input features/)
    assert.throws(
      check('nvfp4-rht-64', 32, 32, 96),
      /96 tokens of a micro-batch are not a multiple of 64, which a rotation of 64 needs/,
    )
    assert.throws(check('fp8', 32, 40, 32), /40 input features are not a multiple of 16, which fp8 needs/)
    check('fp8', 48, 80, 16)()
    check('bf16', 3, 5, 7)()
    check('nvfp4-weights-only-same-axis', 32, 32, 7)()
  })
})
