import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Recipe } from '../src/recipes/recipe.ts'
import { findRecipe, recipes } from '../src/recipes/recipes.ts'
import { isQuantized, phases, resolveRecipe } from '../src/recipes/resolve.ts'
import { outputMultiple } from '../src/recipes/shapes.ts'

const names = ['in_proj', 'out_proj', 'up_proj', 'down_proj', 'qkv_proj', 'o_proj']
const sites = (blocks: number) =>
  Array.from({ length: blocks * 2 }, (_, i) => ({
    name: `layers.${i >> 1}.mixer.${names[i % 6]}`,
    block: i >> 1,
  }))

/** Blocks whose linears are wholly in BF16. */
function bf16Blocks(recipe: Recipe, blocks: number, sensitive?: [number, number], step = 0): number[] {
  const resolved = resolveRecipe(recipe, sites(blocks), { blocks, sensitive }, step, 1000)
  const kept = new Set<number>()
  for (const [i, { fprop, dgrad, wgrad }] of resolved.entries())
    if ([fprop, dgrad, wgrad].every(({ a, b }) => a === 'bf16' && b === 'bf16')) kept.add(i >> 1)
  return [...kept]
}

describe('recipes', () => {
  it('all resolve for a deep and a shallow model, at every phase', () => {
    for (const recipe of Object.values(recipes))
      for (const blocks of [3, 62])
        for (const step of phases(recipe, 1000))
          assert.equal(resolveRecipe(recipe, sites(blocks), { blocks }, step, 1000).length, 2 * blocks, recipe.name)
  })

  it('keep the blocks that the model names, or a share', () => {
    const last = (n: number, blocks: number) => Array.from({ length: n }, (_, i) => blocks - n + i)
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4'), 62, [2, 8]), [0, 1, ...last(8, 62)])
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4'), 52, [0, 8]), last(8, 52))
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4'), 52), last(8, 52))
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4'), 8), [7])
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4'), 3), [2])
    assert.deepEqual(bf16Blocks(findRecipe('fp8'), 62, [2, 8]), [0, 60, 61])
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4-last-4-blocks'), 62, [2, 8]), last(4, 62))
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4-first-fifth'), 40), [0, 1, 2, 3, 4, 5, 6, 7])
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4-both-tenths'), 40), [0, 1, 2, 3, 36, 37, 38, 39])
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4-plain'), 40), [])
    assert.equal(bf16Blocks(findRecipe('bf16'), 5).length, 5)
  })

  it('nvfp4 gives each tensor the image of the paper', () => {
    const [{ fprop, dgrad, wgrad, forward }] = resolveRecipe(findRecipe('nvfp4'), sites(8), { blocks: 8 }, 0, 1) as [
      ReturnType<typeof resolveRecipe>[0],
    ]
    const row = { format: 'nvfp4', round: 'nearest' }
    assert.deepEqual(fprop, { a: row, b: { ...row, square: true } })
    assert.deepEqual(dgrad, { a: { ...row, round: 'stochastic' }, b: 'forward' })
    assert.deepEqual(wgrad, {
      a: { ...row, round: 'stochastic' },
      b: row,
      hadamard: { size: 16, signs: 'fixed' },
    })
    assert.deepEqual(forward, { x: row, w: { ...row, square: true } })
  })

  it('nemotron3 goes by the names of layers', () => {
    const resolved = resolveRecipe(findRecipe('nemotron3'), sites(60), { blocks: 60 }, 0, 1)
    const formatOf = (i: number) => {
      const { a } = resolved[i]!.fprop
      return isQuantized(a) ? a.format : a
    }
    assert.deepEqual([0, 1, 2, 3, 4, 5].map(formatOf), ['nvfp4', 'mxfp8', 'nvfp4', 'nvfp4', 'bf16', 'bf16'])
    assert.equal(formatOf(2 * 48), 'nvfp4')
    assert.equal(formatOf(2 * 51), 'bf16')
  })

  it('switch precision late, and go on quantising what backward needs', () => {
    const recipe = findRecipe('nvfp4-late-fprop')
    assert.deepEqual(phases(recipe, 1000), [0, 820])
    assert.deepEqual(phases(findRecipe('nvfp4'), 1000), [0])
    const at = (step: number) => resolveRecipe(recipe, sites(8), { blocks: 8 }, step, 1000)[0]!
    assert.ok(isQuantized(at(819).fprop.a))
    assert.deepEqual(at(820).fprop, { a: 'bf16', b: 'bf16' })
    assert.equal(at(820).dgrad.b, 'forward')
    assert.equal(at(820).forward.w?.square, true)
    assert.deepEqual(bf16Blocks(findRecipe('nvfp4-late-all'), 8, undefined, 819), [7])
    assert.equal(bf16Blocks(findRecipe('nvfp4-late-all'), 8, undefined, 820).length, 8)
    const backward = resolveRecipe(findRecipe('nvfp4-late-backward'), sites(8), { blocks: 8 }, 900, 1000)
    assert.equal(backward[0]!.wgrad.a, 'bf16')
    assert.ok(isQuantized(backward[0]!.fprop.b) && !backward[0]!.fprop.b.square)
    assert.equal(backward[15]!.fprop.a, 'bf16')
  })

  it('say what is wrong with a recipe', () => {
    const resolve = (rules: Recipe['rules']) => () =>
      resolveRecipe({ name: 'mine', title: '', rules }, sites(2), { blocks: 2 }, 0, 1)
    const [all] = findRecipe('nvfp4').rules as [Recipe['rules'][0]]
    assert.throws(
      resolve([{ where: { blocks: [0, 1] }, use: all.use }]),
      /no rule says how layers\.1\.mixer\.up_proj does fprop/,
    )
    assert.throws(
      resolve([all, { where: 'all', use: { fprop: { a: 'bf16', b: { format: 'nvfp4', round: 'nearest' } } } }]),
      /mine: layers\.0\.mixer\.in_proj: dgrad wants the codes of the weights of forward, but their blocks are not square/,
    )
    assert.throws(
      resolve([...findRecipe('bf16').rules, { where: 'all', use: { dgrad: { a: 'bf16', b: 'forward' } } }]),
      /dgrad wants the weights of forward, but no rule quantises them there/,
    )
    assert.throws(() => findRecipe('nvfp5'), /recipe "nvfp5" is unknown; use one of bf16, fp32, /)
  })

  it('pad outputs to whole blocks and rotations', () => {
    const multiples = { bf16: 1, nvfp4: 16, mxfp4: 32, fp8: 128 }
    for (const [name, multiple] of Object.entries(multiples)) {
      const layer = resolveRecipe(findRecipe(name), sites(20), { blocks: 20 }, 0, 1)[20]
      assert.equal(outputMultiple(layer!), multiple, name)
    }
  })
})
