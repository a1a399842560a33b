import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { presets } from '../presets/index.ts'
import { Stream } from '../src/formats/philox.ts'
import type { ModelConfig } from '../src/model/config.ts'
import { Model } from '../src/model/model.ts'
import type { Recipe } from '../src/recipes/recipe.ts'
import { findRecipe, recipes } from '../src/recipes/recipes.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { Kernel } from '../src/tensor/kernel.ts'
import { bothBackends } from './backends.ts'
import { everyBlock, makeBatch } from './models.ts'

const config = everyBlock
/** Sizes that every recipe can run, MS-EDEN's rotations of 128 included. */
const wide: ModelConfig = {
  ...config,
  pattern: 'M*--',
  hidden: 128,
  ffn: 128,
  head_dim: 32,
  mamba_head_dim: 16,
  state: 30,
  init_std: 0.05,
}

const randomTokens = (count: number, vocab: number, stream = 0): Int32Array => {
  const random = new Stream(5, stream)
  return Int32Array.from({ length: count }, () => random.below(vocab))
}

const { reference, cpu } = await bothBackends()

describe('model', () => {
  const build = (
    backend: Backend,
    recipe: string,
    shape: ModelConfig,
    sequence: number,
    tokens: number,
    steps = 10,
  ) => {
    const model = new Model({ config: shape, backend, recipe: findRecipe(recipe), seed: 3, steps, sequence, tokens })
    model.setScale(1 / tokens)
    return model
  }
  const gradientOf = (model: Model) => model.parameters.gradient.floats()
  const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0))

  it('has the gradient that finite differences give, along random directions', () => {
    const [sequence, rows] = [12, 24]
    const model = build(reference, 'fp32', config, sequence, rows)
    const starts = Int32Array.from({ length: rows }, (_, i) => (i % sequence < 5 ? 0 : 5))
    const batch = makeBatch(reference, randomTokens(rows, config.vocab), sequence, starts)
    model.loss(batch, 0)
    const losses = model.lossSum
    const lossOf = (): number => {
      losses.zero()
      model.evaluate(batch)
      return losses.floats()[0]! / rows
    }
    for (const parameter of model.parameters.all) {
      const gradient = parameter.gradient.floats()
      const original = parameter.value.floats()
      const random = new Stream(11, parameter.offset)
      // Half towards the gradient, so that the derivative stands above the rounding of the loss.
      const size = norm(gradient)
      const direction = gradient.map(g => g / size + random.normal() / Math.sqrt(gradient.length))
      const length = norm(direction)
      const along = (h: number): number => {
        parameter.value.write(original.map((v, i) => v + (h * direction[i]!) / length))
        return lossOf()
      }
      const h = 0.02 * Math.max(0.1, norm(original) / Math.sqrt(original.length))
      const numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
      parameter.value.write(original)
      const analytic = gradient.reduce((sum, g, i) => sum + (g * direction[i]!) / length, 0)
      assert.ok(
        Math.abs(numeric - analytic) <= 0.01 * size + 2e-5,
        `${parameter.name}: finite differences give ${numeric}, the model ${analytic}, norm ${size}`,
      )
    }
  })

  it('starts from weights that depend on seed and name alone', () => {
    const first = build(cpu, 'fp32', config, 16, 16)
    const second = build(cpu, 'nvfp4', { ...config, pattern: 'M*-M' }, 16, 32)
    const weights = (model: Model, name: string) => model.parameters.named(name).value.floats()
    for (const name of [
      'backbone.embeddings.weight',
      'backbone.layers.1.mixer.qkv_proj.weight',
      'backbone.layers.0.mixer.A_log',
    ])
      assert.deepEqual(weights(first, name), weights(second, name))
    const deviation = (name: string) => norm(weights(first, name)) / Math.sqrt(weights(first, name).length)
    assert.ok(Math.abs(deviation('lm_head.weight') - 0.15) < 0.01)
    assert.ok(Math.abs(deviation('backbone.layers.2.mixer.down_proj.weight') - 0.15 / Math.sqrt(3)) < 0.01)
    assert.ok(weights(first, 'backbone.layers.0.mixer.A_log').every(v => v >= 0 && v <= Math.log(16)))
    const steps = weights(first, 'backbone.layers.0.mixer.dt_bias').map(b => Math.log1p(Math.exp(b)))
    assert.ok(steps.every(v => v > 0.0009 && v < 0.11))
    for (const { name, value, decay } of first.parameters.all)
      assert.equal(decay, value.shape.length > 1, `weight decay of ${name}`)
  })

  it('runs every recipe, keeps no memory, and has gradients near those of FP32', () => {
    const [sequence, rows] = [64, 128]
    const tokens = randomTokens(rows, wide.vocab)
    const exact = build(cpu, 'fp32', wide, sequence, rows)
    exact.loss(makeBatch(cpu, tokens, sequence), 0)
    const want = gradientOf(exact)
    const quantising = Object.keys(recipes).filter(name => name !== 'fp32')
    for (const name of quantising) {
      const model = build(cpu, name, wide, sequence, rows)
      const batch = makeBatch(cpu, tokens, sequence)
      for (const phase of model.phases) {
        model.beginStep(phase)
        model.parameters.gradient.zero()
        model.loss(batch, 0)
        const got = gradientOf(model)
        const cosine = got.reduce((sum, g, i) => sum + g * want[i]!, 0) / (norm(got) * norm(want))
        assert.ok(cosine > 0.85 && cosine < 0.99999999, `${name} at step ${phase}: cosine with FP32 is ${cosine}`)
        assert.equal(model.tape.arena.live, 0)
      }
    }
  })

  it('rounds at random by the whole seed', () => {
    const batch = makeBatch(cpu, randomTokens(128, wide.vocab), 64)
    const weights = build(cpu, 'nvfp4', wide, 64, 128).parameters.value.floats()
    const gradients = [3, 3 + 2 ** 32, 3].map(seed => {
      const options = { config: wide, backend: cpu, recipe: findRecipe('nvfp4'), steps: 10, sequence: 64, tokens: 128 }
      const model = new Model({ ...options, seed, empty: true })
      model.parameters.value.write(weights)
      model.weightsChanged()
      model.setScale(1 / 128)
      model.loss(batch, 0)
      return gradientOf(model)
    })
    assert.deepEqual(gradients[2], gradients[0])
    assert.notDeepEqual(gradients[1], gradients[0])
  })

  it('evaluates the same whatever was trained on before', () => {
    const model = build(cpu, 'nvfp4-sr-on-activations', wide, 64, 128)
    const batch = makeBatch(cpu, randomTokens(128, wide.vocab), 64)
    const losses = [0, 1].map(microBatch => {
      model.loss(batch, microBatch)
      model.lossSum.zero()
      model.evaluate(batch)
      return model.lossSum.floats()[0]
    })
    assert.equal(losses[0], losses[1])
  })

  it('gives every norm the eps of its config', () => {
    const shape = { ...config, eps: 0.25 }
    const model = build(reference, 'fp32', shape, 16, 16)
    const found: Record<string, unknown[]> = {}
    const { run } = reference
    reference.run = ((kernel: Kernel, bindings: Record<string, unknown>) => {
      if ('eps' in kernel.args) found[kernel.name] = [...(found[kernel.name] ?? []), bindings.eps]
      run.call(reference, kernel, bindings as never)
    }) as typeof run
    try {
      model.evaluate(makeBatch(reference, randomTokens(16, shape.vocab), 16))
    } finally {
      reference.run = run
    }
    const mambas = [...shape.pattern].filter(kind => kind === 'M').length
    const norms = { rms_norm: shape.pattern.length + 1, gated_norm: mambas }
    assert.deepEqual(
      found,
      Object.fromEntries(Object.entries(norms).map(([name, count]) => [name, new Array(count).fill(0.25)])),
    )
  })

  for (const activations of ['f32', 'bf16'] as const)
    it(`agrees between backends with activations in ${activations}`, () => {
      const [sequence, rows] = [16, 32]
      const shape = { ...config, activations }
      const tokens = randomTokens(rows, config.vocab)
      const run = (backend: Backend, recipe: string) => {
        const model = build(backend, recipe, shape, sequence, rows)
        model.loss(makeBatch(backend, tokens, sequence), 0)
        return { loss: model.lossSum.floats()[0]! / rows, gradient: gradientOf(model) }
      }
      for (const [recipe, limit] of [
        ['fp32', activations === 'f32' ? 1e-5 : 0.03],
        ['bf16', 0.02],
        ['nvfp4', 0.1],
      ] as const) {
        const want = run(reference, recipe)
        const got = run(cpu, recipe)
        assert.ok(Math.abs(got.loss - want.loss) < 0.003 * want.loss, `${recipe}: ${got.loss}, ${want.loss}`)
        const error = norm(got.gradient.map((g, i) => g - want.gradient[i]!)) / norm(want.gradient)
        assert.ok(error < limit, `${recipe}: gradients differ by ${error}`)
      }
    })

  it('repeats itself to the bit, step by step, and differs between steps and micro-batches', () => {
    const [sequence, rows] = [16, 32]
    const run = (step: number, microBatch: number) => {
      const model = build(cpu, 'nvfp4', config, sequence, rows)
      model.beginStep(step)
      model.loss(makeBatch(cpu, randomTokens(rows, config.vocab), sequence), microBatch)
      return gradientOf(model)
    }
    assert.deepEqual(run(1, 0), run(1, 0))
    assert.notDeepEqual(run(1, 0), run(2, 0))
    assert.notDeepEqual(run(1, 0), run(1, 1))
  })

  it('asks for no memory after its second step', () => {
    const [sequence, rows] = [16, 32]
    const model = build(cpu, 'nvfp4', config, sequence, rows)
    const batch = makeBatch(cpu, randomTokens(rows, config.vocab), sequence)
    let allocations = 0
    for (let step = 0; step < 5; step++) {
      if (step === 2) allocations = cpu.usage.allocations
      model.beginStep(step)
      model.weightsChanged()
      model.loss(batch, 0)
      model.loss(batch, 1)
    }
    assert.equal(cpu.usage.allocations, allocations)
  })

  it('adds over micro-batches, and evaluation leaves no trace', () => {
    const [sequence, rows] = [16, 32]
    const batch = makeBatch(cpu, randomTokens(rows, config.vocab), sequence)
    const model = build(cpu, 'bf16', config, sequence, rows)
    model.loss(batch, 0)
    const once = gradientOf(model)
    const [loss] = model.lossSum.floats()
    model.evaluate(batch, { recipe: findRecipe('nvfp4') })
    assert.deepEqual(gradientOf(model), once)
    model.lossSum.zero()
    model.evaluate(batch)
    assert.equal(model.lossSum.floats()[0], loss)
    model.loss(batch, 1)
    assert.ok(norm(gradientOf(model).map((g, i) => g - 2 * once[i]!)) < 1e-5 * norm(once))
  })

  it('overwrites gradients of products in the first micro-batch of a step, all of their elements', () => {
    const [sequence, rows] = [16, 32]
    const batch = makeBatch(cpu, randomTokens(rows, config.vocab), sequence)
    // In nvfp4-plain the projection of Mamba-2 has rows of zeros after its own.
    for (const [recipe, activations, recompute] of [
      ['bf16', 'bf16', 'none'],
      ['nvfp4-plain', 'f32', 'none'],
      ['nvfp4-plain', 'bf16', 'block'],
    ] as const) {
      const shape = { ...config, mamba_heads: 6, mamba_head_dim: 8, state: 7, activations, recompute }
      const [fresh, stale] = [build(cpu, recipe, shape, sequence, rows), build(cpu, recipe, shape, sequence, rows)]
      const overwritten = stale.parameters.all.filter(parameter => parameter.overwritten)
      assert.equal(overwritten.length, stale.linears.length + 1)
      for (const { gradient } of overwritten) gradient.write(new Float32Array(gradient.size).fill(7))
      for (const microBatch of [0, 1]) {
        for (const model of [fresh, stale]) model.loss(batch, microBatch)
        assert.deepEqual(gradientOf(stale), gradientOf(fresh), `${recipe}, micro-batch ${microBatch}`)
      }
    }
  })

  it('computes the same step whether or not it was evaluated before', () => {
    const [sequence, rows] = [16, 32]
    const batch = makeBatch(cpu, randomTokens(rows, config.vocab), sequence)
    const step = (evaluated: boolean) => {
      const model = build(cpu, 'nvfp4-sr-on-weights', config, sequence, rows)
      model.weightsChanged()
      if (evaluated) model.evaluate(batch)
      model.beginStep(1)
      model.loss(batch, 0)
      return gradientOf(model)
    }
    assert.deepEqual(step(true), step(false))
  })

  it('does not take a recipe for another of the same name', () => {
    const [sequence, rows] = [16, 32]
    const batch = makeBatch(cpu, randomTokens(rows, config.vocab), sequence)
    const model = build(cpu, 'nvfp4', config, sequence, rows)
    const lossIn = (recipe: Recipe): number => {
      model.lossSum.zero()
      model.evaluate(batch, { recipe })
      return model.lossSum.floats()[0]!
    }
    const bf16 = findRecipe('bf16')
    const wanted = lossIn(bf16)
    assert.notEqual(lossIn(model.recipe), wanted)
    assert.equal(lossIn({ ...bf16, name: model.recipe.name }), wanted)
  })

  it('sees nothing of the future, and nothing of another document where boundaries reset', () => {
    const sequence = 32
    const model = build(cpu, 'bf16', config, sequence, sequence)
    const tokens = randomTokens(sequence, config.vocab)
    const starts = Int32Array.from({ length: sequence }, (_, i) => (i < 20 ? 0 : 20))
    const scores = (change: number | undefined, from: Int32Array) => {
      const changed = tokens.map((token, i) => (i === change ? (token + 1) % config.vocab : token))
      const batch = makeBatch(cpu, changed, sequence, from)
      return model.logits(batch.tokens, batch.starts, sequence, model.recipe)
    }
    const row = (logits: Float32Array, r: number) => logits.slice(r * config.vocab, (r + 1) * config.vocab)
    const none = new Int32Array(sequence)
    const before = scores(undefined, none)
    const after = scores(15, none)
    assert.deepEqual(after.slice(0, 15 * config.vocab), before.slice(0, 15 * config.vocab))
    assert.notDeepEqual(row(after, 25), row(before, 25))
    const reset = scores(undefined, starts)
    assert.deepEqual(row(scores(15, starts), 25), row(reset, 25))
    assert.notDeepEqual(row(reset, 25), row(before, 25))
    const alone = makeBatch(cpu, tokens.slice(20), 12)
    const short = model.logits(alone.tokens, alone.starts, 12, model.recipe)
    const difference = row(short, 5).reduce((most, v, i) => Math.max(most, Math.abs(v - row(reset, 25)[i]!)), 0)
    assert.ok(difference < 1e-4)
  })

  it('names the layer and the size that a recipe cannot run', () => {
    assert.throws(
      () => build(cpu, 'nvfp4', { ...config, mamba_heads: 12, mamba_head_dim: 7 }, 16, 32),
      /^RecipeError: layers\.0\.mixer\.out_proj: 84 input features are not a multiple of 16, which nvfp4 needs; the nearest that works is 80$/,
    )
    assert.throws(
      () => build(cpu, 'nvfp4', config, 20, 40),
      /layers\.0\.mixer\.in_proj: 40 tokens of a micro-batch are not a multiple of 16/,
    )
    assert.throws(
      () => build(cpu, 'mxfp4', { ...config, hidden: 48 }, 32, 32),
      /48 input features are not a multiple of 32, which mxfp4 needs/,
    )
    assert.throws(
      () => build(cpu, 'nvfp4-plain-sr-rht-2d', { ...config, ffn: 40 }, 16, 32),
      /layers\.2\.mixer\.up_proj: 40 output features are not a multiple of 16/,
    )
    assert.throws(() => build(cpu, 'quartet2', config, 16, 16), /not a multiple of 128, which a rotation of 128 needs/)
    assert.throws(() => build(cpu, 'bf16', config, 16, 24), /24 tokens is not a whole number of sequences of 16/)
    assert.throws(
      () => build(cpu, 'bf16', { ...config, pattern: 'Mx' }, 16, 16),
      /has "x" at 1; its blocks are M, \*, -/,
    )
    build(cpu, 'bf16', { ...config, mamba_heads: 12, mamba_head_dim: 7 }, 20, 40)
  })

  it('pads the projection of Mamba-2 to the blocks of the recipe', () => {
    const [sequence, rows] = [16, 32]
    const odd = { ...config, pattern: 'M', mamba_heads: 6, mamba_head_dim: 8, state: 7 }
    const tokens = randomTokens(rows, config.vocab)
    const run = (backend: Backend, recipe: string) => {
      const model = build(backend, recipe, odd, sequence, rows)
      model.loss(makeBatch(backend, tokens, sequence), 0)
      return model
    }
    const [plain, quantised, other] = [run(cpu, 'fp32'), run(cpu, 'nvfp4-plain'), run(reference, 'nvfp4-plain')]
    assert.equal(plain.linears[0]!.outputs, 130)
    assert.equal(quantised.linears[0]!.outputs, 144)
    const { padded, gradient } = quantised.parameters.named('backbone.layers.0.mixer.in_proj.weight')
    assert.ok(
      padded.gradient
        .floats()
        .subarray(gradient.size)
        .every(g => g === 0),
    )
    const [want, got, same] = [plain, quantised, other].map(gradientOf) as [Float32Array, Float32Array, Float32Array]
    const cosine = got.reduce((sum, g, i) => sum + g * want[i]!, 0) / (norm(got) * norm(want))
    assert.ok(cosine > 0.9, `cosine ${cosine}`)
    assert.ok(norm(got.map((g, i) => g - same[i]!)) < 0.05 * norm(same))
  })

  it('presets fit their recipes', () => {
    for (const preset of Object.values(presets)) {
      assert.ok(preset.model.hidden % 32 === 0, preset.name)
      assert.ok((preset.data.sequence * preset.data.micro_batch) % 128 === 0, preset.name)
      assert.equal(preset.data.batch % preset.data.micro_batch, 0, preset.name)
    }
  })
})
