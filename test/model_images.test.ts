import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { fromBf16, roundBf16 } from '../src/formats/bf16.ts'
import { quantize } from '../src/formats/prepare.ts'
import type { QuantizeOptions } from '../src/formats/quantize.ts'
import type { ModelConfig } from '../src/model/config.ts'
import { Model } from '../src/model/model.ts'
import { type Role, roles } from '../src/ops/linear.ts'
import type { FormatName, Quantized, Recipe } from '../src/recipes/recipe.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { resolveRecipe } from '../src/recipes/resolve.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { Activation } from '../src/tensor/dtype.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import { bothBackends } from './backends.ts'
import { everyBlock, makeBatch } from './models.ts'

/** What a model quantises in a step, against docs/numerics.md, "Which tensor gets what", by the library's own quantiser. */

const config: ModelConfig = { ...everyBlock, pattern: 'M*--', bf16_blocks: [0, 1] }
const [seed, step, microBatch, tokens] = [2 ** 32 + 3, 7, 2, 32]
const { reference, cpu } = await bothBackends()

interface Made {
  readonly linear: string
  readonly role: Role
  readonly values: Float32Array
  readonly shape: [number, number]
  readonly codes: Uint8Array
  readonly scales: Uint8Array
  readonly amax: number
}

const valuesOf = (tensor: Tensor): Float32Array =>
  tensor.dtype === 'bf16' ? fromBf16(tensor.read() as Uint16Array) : Float32Array.from(tensor.floats())

/** Every operand that one micro-batch quantises. */
function operandsOf(backend: Backend, recipe: Recipe, activations: Activation): { model: Model; made: Made[] } {
  const shape = { ...config, activations }
  const model = new Model({ config: shape, backend, recipe, seed, steps: 10, sequence: 16, tokens })
  const made: Made[] = []
  model.setScale(1 / tokens)
  model.beginStep(step)
  model.watch(({ linear, role, values, image: { codes, scales, amax } }) =>
    made.push({
      linear,
      role,
      values: valuesOf(values),
      shape: values.shape as [number, number],
      codes: Uint8Array.from(codes.read() as Uint8Array),
      scales: Uint8Array.from(scales.read() as Uint8Array),
      amax: amax.floats()[0]!,
    }),
  )
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 29 + (i >> 2)) % 48)
  model.loss(makeBatch(backend, ids, 16), microBatch)
  return { model, made }
}

/** By role: what happens to an operand besides its format; `rotated` is along the tokens. */
const table: readonly (readonly [Role, Partial<QuantizeOptions>, 'rotated'?])[] = [
  ['xRows', {}],
  ['xColumns', {}, 'rotated'],
  ['wRows', { square: true }],
  ['dyRows', { round: 'stochastic' }],
  ['dyColumns', { round: 'stochastic' }, 'rotated'],
]

describe('operands of a step', () => {
  const recipes: [name: string, format: FormatName, rotation: number, more: Partial<QuantizeOptions>][] = [
    ['nvfp4', 'nvfp4', 16, {}],
    ['nvfp4-te', 'nvfp4', 16, { scaleOrder: 'm6' }],
    ['mxfp4', 'mxfp4', 32, {}],
  ]
  for (const backend of [reference, cpu])
    for (const activations of ['f32', 'bf16'] as const)
      for (const [name, format, size, more] of recipes)
        it(`are those of the paper: ${name}, activations in ${activations}, on ${backend.name}`, () => {
          const { model, made } = operandsOf(backend, findRecipe(name), activations)
          const names = model.linears.map(({ name }) => name)
          // The last block is in BF16; weights have one image for fprop and dgrad.
          const want = names
            .filter(linear => !linear.startsWith('layers.3.'))
            .flatMap(l => table.map(([r]) => `${l} ${r}`))
          assert.deepEqual(made.map(({ linear, role }) => `${linear} ${role}`).sort(), want.sort())
          for (const { linear, role, values, shape, codes, scales, amax } of made) {
            const [, options, rotated] = table.find(([of]) => of === role)!
            const ofWeight = role === 'wRows'
            const image = quantize(values, shape, {
              format,
              ...more,
              ...options,
              source: ofWeight ? 'bf16' : activations,
              ...(rotated && { transpose: true, rotate: { size, signs: 'fixed' } }),
              random: [3, 1, step],
              stream: (names.indexOf(linear) * 6 + roles.indexOf(role)) * 2 ** 16 + (ofWeight ? 0 : microBatch),
            })
            assert.deepEqual({ codes, scales, amax }, { codes: image.codes, scales: image.scales, amax: image.amax[0] })
            if (!ofWeight) continue
            const weight = model.linears.find(each => each.name === linear)!.value.floats()
            assert.deepEqual(values, weight.map(roundBf16), `${linear} is rounded to BF16`)
          }
        })

  it('may be weights as they are in FP32, of square tiles or not', () => {
    const row = { format: 'nvfp4', round: 'nearest' } as const
    for (const square of [true, undefined]) {
      const w: Quantized = { ...row, source: 'f32', ...(square && { square }) }
      const use = {
        fprop: { a: row, b: w },
        dgrad: { a: row, b: square ? ('forward' as const) : w },
        wgrad: { a: row, b: row },
      }
      for (const backend of [reference, cpu]) {
        const recipe: Recipe = { name: 'mine', title: '', rules: [{ where: 'all', use }] }
        const { model, made } = operandsOf(backend, recipe, 'bf16')
        const weights = made.filter(({ role }) => role[0] === 'w')
        assert.equal(weights.length, model.linears.length * (square ? 1 : 2))
        for (const { linear, role, values, shape, codes, scales, amax } of weights) {
          assert.deepEqual(values, model.linears.find(({ name }) => name === linear)!.value.floats())
          assert.notDeepEqual(values, values.map(roundBf16))
          const turned = { transpose: role === 'wColumns', square: square === true }
          const image = quantize(values, shape, { ...row, ...turned })
          assert.deepEqual({ codes, scales, amax }, { codes: image.codes, scales: image.scales, amax: image.amax[0] })
        }
      }
    }
    const rules = [
      { where: 'all', use: { ...findRecipe('nvfp4').rules[0]!.use, wgrad: { a: row, b: { ...row, source: 'f32' } } } },
    ] as const
    assert.throws(
      () => resolveRecipe({ name: 'mine', title: '', rules }, [{ name: 'layers.0.x', block: 0 }], { blocks: 1 }, 0, 1),
      /mine: layers\.0\.x: only weights can be quantised from FP32 instead of from BF16/,
    )
  })
})
