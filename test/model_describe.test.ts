import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { presets } from '../presets/index.ts'
import { runSchema } from '../src/config/schema.ts'
import { type ModelConfig, mambaSizes } from '../src/model/config.ts'
import { bitsOf, describeModel } from '../src/model/describe.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { learningRate } from '../src/train/schedule.ts'

const shapeOf = (preset: string): ModelConfig => {
  const config = runSchema.parse(presets[preset])
  return { activations: 'f32', ...config.model } as ModelConfig
}
const describePreset = (preset: string, recipe: string = presets[preset]!.recipe) =>
  describeModel(shapeOf(preset), findRecipe(recipe), presets[preset]!.data.sequence)

describe('describeModel', () => {
  it('counts the parameters of the published models', () => {
    assert.equal(describePreset('nemotron-nano-12b').parameters, 12_310_001_152)
    assert.equal(describePreset('nemotron-h-8b').parameters, 8_100_852_736)
    assert.equal(
      describeModel({ ...shapeOf('nemotron-h-8b'), kv_heads: 4 }, findRecipe('nvfp4'), 8192).parameters,
      8_084_075_520,
    )
    const million = describePreset('nemotron-1.2b').parameters / 1e6
    assert.equal(Math.round(million), 1292)
    for (const [name, about] of Object.entries({
      small: 30e6,
      'small-dense': 30e6,
      base: 125e6,
      'hybrid-1.2b': 1.2e9,
      'base-dense': 125e6,
    })) {
      const { parameters } = describePreset(name)
      assert.ok(Math.abs(parameters / about - 1) < 0.15, `${name} has ${parameters} parameters`)
    }
  })

  it('knows the sizes of the paper’s models', () => {
    const rows: [preset: string, blocks: Record<string, number>, rows: Record<string, number>][] = [
      [
        'nemotron-nano-12b',
        { M: 28, '-': 28, '*': 6 },
        { in_proj: 22656, out_proj: 5120, qkv_proj: 7168, o_proj: 5120, up_proj: 20480, down_proj: 5120 },
      ],
      [
        'nemotron-h-8b',
        { M: 24, '-': 24, '*': 4 },
        { in_proj: 18560, out_proj: 4096, qkv_proj: 6144, o_proj: 4096, up_proj: 21504, down_proj: 4096 },
      ],
      ['nemotron-1.2b', { '-': 20, '*': 20 }, { qkv_proj: 4096, o_proj: 2048, up_proj: 6144, down_proj: 2048 }],
    ]
    for (const [preset, blocks, sizes] of rows) {
      const { linears } = describePreset(preset)
      const { pattern, eps, chunk, conv } = shapeOf(preset)
      const counts: Record<string, number> = {}
      for (const kind of pattern) counts[kind] = (counts[kind] ?? 0) + 1
      assert.deepEqual(counts, blocks, preset)
      assert.deepEqual([eps, chunk, conv], [1e-5, 128, 4])
      const found: Record<string, number> = {}
      for (const { name, rows } of linears) found[name.split('.').at(-1)!] = rows
      assert.deepEqual(found, sizes, preset)
    }
    assert.deepEqual(mambaSizes(shapeOf('nemotron-nano-12b')), { inner: 10240, conv: 12288, projection: 22656 })
    assert.deepEqual(mambaSizes(shapeOf('nemotron-h-8b')), { inner: 8192, conv: 10240, projection: 18560 })
    assert.match(shapeOf('nemotron-nano-12b').pattern, /^M-.*M-M-M-M-$/)
    assert.match(shapeOf('nemotron-h-8b').pattern, /M-M-M-M-$/)
  })

  it('trains them as the paper does', () => {
    const rows: [preset: string, tokens: number, batch: number, lr: number, last: number, decay: number][] = [
      ['nemotron-nano-12b', 10e12, 736, 4.5e-4, 4.5e-6, 0.2],
      ['nemotron-h-8b', 1e12, 768, 8e-4, 8e-6, 0.15],
      ['nemotron-1.2b', 1e12, 768, 1.2e-3, 1.2e-5, 0.15],
    ]
    for (const [preset, tokens, batch, lr, last, decay] of rows) {
      const { data, steps, optimizer, schedule } = runSchema.parse(presets[preset])
      assert.deepEqual([data.sequence, data.batch], [8192, batch])
      assert.ok(Math.abs((steps * 8192 * batch) / tokens - 1) < 1e-5, `${preset}: ${steps} steps`)
      const { beta1, beta2, weight_decay } = optimizer
      assert.deepEqual([beta1, beta2, weight_decay], [0.9, 0.95, 0.1])
      const rate = (step: number) => learningRate(step, steps, optimizer.lr, schedule)
      const falls = steps - Math.round(decay * steps)
      assert.equal(rate(Math.ceil(steps / 2)), lr)
      assert.equal(rate(falls - 1), lr)
      assert.ok(rate(falls) < lr)
      assert.ok(Math.abs(rate(steps - 1) / last - 1) < 1e-9, `${preset}: ends at ${rate(steps - 1)}`)
    }
  })

  it('knows which linears stay in BF16', () => {
    const large = describePreset('nemotron-nano-12b')
    assert.deepEqual(large.formats, { bf16: 20, nvfp4: 104 })
    assert.equal(large.linears.length, 124)
    const kept = new Set(large.linears.filter(({ format }) => format === 'bf16').map(({ block }) => block))
    assert.deepEqual([...kept], [0, 1, 54, 55, 56, 57, 58, 59, 60, 61])
    assert.deepEqual(describePreset('nemotron-h-8b').formats, { nvfp4: 88, bf16: 16 })
    assert.deepEqual(describePreset('nemotron-1.2b').formats, { nvfp4: 64, bf16: 16 })
    assert.deepEqual(describePreset('nemotron-nano-12b', 'fp8').formats, { bf16: 6, fp8: 118 })
    assert.deepEqual(describePreset('tiny').formats, { nvfp4: 14, bf16: 2 })
    const mixed = describePreset('nemotron-1.2b', 'nvfp4-weights-only-square').formats
    assert.deepEqual(mixed, { 'fprop bf16 x nvfp4, dgrad bf16 x nvfp4, wgrad bf16': 64, bf16: 16 })
  })

  it('adds up', () => {
    for (const name of Object.keys(presets)) {
      const { kinds, parameters, flops, linears, memory } = describePreset(name)
      assert.equal(
        kinds.reduce((sum, kind) => sum + kind.parameters, 0),
        parameters,
      )
      assert.equal(flops.linears + flops.mixers + flops.head, flops.total)
      assert.equal(flops.head, 6 * shapeOf(name).vocab * shapeOf(name).hidden)
      assert.equal(flops.linears, 6 * linears.reduce((sum, { rows, cols }) => sum + rows * cols, 0))
      assert.equal(memory.weights, 4 * parameters)
    }
  })

  it('counts what attention and squared ReLU add to the products of linear layers', () => {
    const mixers = (pattern: string) =>
      describeModel({ ...shapeOf('tiny-dense'), pattern }, findRecipe('bf16'), 256).flops.mixers
    const { heads, head_dim, ffn } = shapeOf('tiny-dense')
    // Forward and twice as much backward: q k and p v with half of the 256 tokens; a comparison and a product.
    assert.equal(mixers('*'), 3 * 2 * (2 * heads * head_dim) * 128)
    assert.equal(mixers('-*'), mixers('*') + 3 * 2 * ffn)
  })

  it('counts 4.5 bits for a kept input where wgrad reads NVFP4', () => {
    const config = shapeOf('tiny-dense')
    const inputs = config.pattern.length * 0.5 * (128 + 128 + 128 + 512)
    const { memory } = describeModel(config, findRecipe('nvfp4-plain'), 256)
    assert.equal(memory.inputsPerToken, (inputs * 4.5) / 8)
    assert.equal(memory.inputsPerTokenBf16, inputs * 2)
    assert.equal(bitsOf('f32'), 32)
    assert.equal(bitsOf({ format: 'nvfp4', round: 'nearest' }), 4.5)
    assert.equal(bitsOf({ format: 'mxfp4', round: 'nearest' }), 4.25)
    assert.equal(bitsOf({ format: 'mxfp8', round: 'nearest' }), 8.25)
    assert.equal(bitsOf({ format: 'fp8', round: 'nearest' }), 8.25)
    assert.equal(bitsOf({ format: 'fp8', round: 'nearest', square: true }), 8 + 32 / 128 ** 2)
    const bf16 = describeModel(config, findRecipe('bf16'), 256).memory
    assert.equal(bf16.inputsPerToken, bf16.inputsPerTokenBf16)
    assert.equal(bf16.images, 0)
    assert.equal(bf16.copies, 0)
  })

  it('counts the weights that enter products in BF16 where activations are BF16', () => {
    const config = { ...shapeOf('tiny-dense'), activations: 'bf16' } as const
    const table = config.vocab * config.hidden
    const copies = (recipe: string) => describeModel(config, findRecipe(recipe), 256).memory.copies
    const { linears, parameters } = describeModel(config, findRecipe('fp32'), 256)
    const all = linears.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
    // A number for each 16 weights says where their copies lie.
    const places = parameters / 4
    assert.equal(copies('bf16'), 2 * (all + table) + places)
    assert.equal(copies('nvfp4-plain'), 2 * table + places)
    assert.equal(copies('fp32'), 0)
    const recomputed = describeModel({ ...config, recompute: 'block' }, findRecipe('bf16'), 256)
    assert.equal(recomputed.memory.copies, 0)
  })
})
