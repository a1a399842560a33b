import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { rank } from '../src/analysis/sensitivity.ts'
import { asRecipe, isRandom, type Layers, quantises, unquantised, variantsOf } from '../src/analysis/variants.ts'
import type { Recipe } from '../src/recipes/recipe.ts'
import { findRecipe, recipes } from '../src/recipes/recipes.ts'
import { phases, type ResolvedRecipe, resolveRecipe } from '../src/recipes/resolve.ts'

const names = ['in_proj', 'out_proj', 'up_proj', 'down_proj', 'qkv_proj', 'o_proj']
const sites = Array.from({ length: 16 }, (_, i) => ({ name: `layers.${i >> 1}.mixer.${names[i % 6]}`, block: i >> 1 }))
const depth = { blocks: 8 }
const layersOf = (recipe: Recipe, step = 0): Layers => ({
  sites,
  depth,
  resolved: resolveRecipe(recipe, sites, depth, step, 1000),
  plain: recipe.head ?? 'bf16',
})
const resolve = (recipe: Recipe): ResolvedRecipe[] => resolveRecipe(recipe, sites, depth, 0, 1)
const gemms = ({ fprop, dgrad, wgrad }: ResolvedRecipe) => ({ fprop, dgrad, wgrad })
/** What a variant of a recipe does in a layer of the middle. */
const inLayer = (recipe: string, variant: string, step = 0): ResolvedRecipe => {
  const found = variantsOf(recipe, layersOf(findRecipe(recipe), step)).find(({ name }) => name === variant)
  assert.ok(found, `${recipe} has no variant ${variant}`)
  return resolve(found.recipe)[8]!
}

describe('variants of a recipe', () => {
  it('can be made of every recipe in every phase, and resolve', () => {
    for (const recipe of Object.values(recipes))
      for (const step of phases(recipe, 1000)) {
        const layers = layersOf(recipe, step)
        const again = resolve(asRecipe('again', layers, layers.resolved))
        assert.deepEqual(again.map(gemms), layers.resolved.map(gemms), recipe.name)
        assert.ok(resolve(unquantised(layers).recipe).every(layer => !quantises(layer)))
        for (const { name, recipe: made, backward, forward } of variantsOf(recipe.name, layers)) {
          const resolved = resolve(made)
          assert.equal(resolved.length, 16, `${recipe.name}: ${name}`)
          if (!backward) continue
          assert.ok(resolve(backward).every(({ fprop }) => fprop.a === layers.plain && fprop.b === layers.plain))
          assert.ok(forward || JSON.stringify(resolve(backward).map(gemms)) === JSON.stringify(resolved.map(gemms)))
        }
      }
  })

  it('of the paper’s method take its products and its techniques apart', () => {
    const rows = variantsOf('nvfp4', layersOf(findRecipe('nvfp4'))).map(({ name }) => name)
    assert.deepEqual(rows, [
      'nvfp4',
      'fprop alone',
      'dgrad alone',
      'wgrad alone',
      'without stochastic rounding',
      'without Hadamard rotation',
      'without square scaling',
      'without high-precision blocks',
    ])
    const row = { format: 'nvfp4', round: 'nearest' }
    const stochastic = { format: 'nvfp4', round: 'stochastic' }
    const plain = { a: 'bf16', b: 'bf16' }
    const rotation = { size: 16, signs: 'fixed' }
    assert.deepEqual(gemms(inLayer('nvfp4', 'dgrad alone')), {
      fprop: plain,
      dgrad: { a: stochastic, b: 'forward' },
      wgrad: plain,
    })
    assert.deepEqual(inLayer('nvfp4', 'dgrad alone').forward.w, { ...row, square: true })
    assert.deepEqual(gemms(inLayer('nvfp4', 'without square scaling')), {
      fprop: { a: row, b: row },
      dgrad: { a: stochastic, b: row },
      wgrad: { a: stochastic, b: row, hadamard: rotation },
    })
    assert.deepEqual(inLayer('nvfp4-sr-on-activations', 'without square scaling').dgrad.b, row)
    assert.deepEqual(inLayer('nvfp4', 'without Hadamard rotation').wgrad, { a: stochastic, b: row })
    assert.deepEqual(inLayer('nvfp4', 'without stochastic rounding').wgrad, { a: row, b: row, hadamard: rotation })
    const everywhere = variantsOf('nvfp4', layersOf(findRecipe('nvfp4'))).at(-1)!
    assert.ok(resolve(everywhere.recipe).every(quantises))
    assert.deepEqual(resolve(everywhere.recipe)[15], resolve(everywhere.recipe)[0])
  })

  it('add the techniques that a recipe lacks', () => {
    const square = { format: 'mxfp8', round: 'nearest', square: true }
    const rows = variantsOf('mxfp8', layersOf(findRecipe('mxfp8'))).map(({ name }) => name)
    assert.deepEqual(rows.slice(4), [
      'with stochastic rounding',
      'with Hadamard rotation',
      'with square scaling',
      'with high-precision blocks',
    ])
    assert.deepEqual(inLayer('mxfp8', 'with square scaling').fprop.b, square)
    assert.equal(inLayer('mxfp8', 'with square scaling').dgrad.b, 'forward')
    assert.deepEqual(inLayer('mxfp8', 'with Hadamard rotation').wgrad.hadamard, { size: 32, signs: 'fixed' })
    assert.deepEqual(inLayer('fp8', 'with Hadamard rotation').wgrad.hadamard, { size: 16, signs: 'fixed' })
    assert.deepEqual(inLayer('mxfp8', 'with stochastic rounding').wgrad.a, { format: 'mxfp8', round: 'stochastic' })
    const kept = variantsOf('mxfp8', layersOf(findRecipe('mxfp8'))).at(-1)!
    assert.deepEqual(
      resolve(kept.recipe).map(quantises),
      sites.map(({ block }) => block < 7),
    )
  })

  it('are of the phase that the run is in', () => {
    const late = variantsOf('late', layersOf(findRecipe('nvfp4-late-fprop'), 900))
    assert.ok(!late.some(({ name }) => name === 'fprop alone'))
    assert.equal(inLayer('nvfp4-late-fprop', 'dgrad alone', 900).dgrad.b, 'forward')
  })

  it('say whether they make random decisions', () => {
    const random = (name: string, variant: string) =>
      isRandom(variantsOf(name, layersOf(findRecipe(name))).find(row => row.name === variant)!.recipe)
    assert.deepEqual(
      [random('nvfp4', 'nvfp4'), random('nvfp4', 'fprop alone'), random('nvfp4', 'without stochastic rounding')],
      [true, false, false],
    )
    assert.ok(random('nvfp4-signs-fresh', 'without stochastic rounding'))
    assert.ok(random('quartet2', 'dgrad alone'))
  })
})

it('layers are scored by the share of the others that suffer less, half of those that suffer as much', () => {
  const layer = (linear: string, error: number) => {
    const errors = { weights: error, activations: error, gradients: error, wgrad: error }
    return { linear, block: 0, parameters: 1, ...errors, loss: null, high_in_run: false }
  }
  const ranked = rank([layer('a', 1), layer('b', 2), layer('c', 3)], 'score')
  assert.deepEqual(
    ranked.map(({ linear, score }) => [linear, score]),
    [
      ['c', 0.9],
      ['b', 0.5],
      ['a', 0.1],
    ],
  )
})
