import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Gemm, LinearRecipe, Operand, Recipe } from '../src/recipes/recipe.ts'
import { findRecipe, linearOf, recipes } from '../src/recipes/recipes.ts'
import { isQuantized, matcher, phases, resolveRecipe, stepOf } from '../src/recipes/resolve.ts'
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

/** An operand in words: nothing but `row` where it is nvfp4 in 1x16 blocks to nearest. */
function operandText(operand: Operand): string {
  if (!isQuantized(operand)) return operand
  const { format, round, square, of, source, scaleOrder, fourOverSix, headroom, ...rest } = operand
  const words = [
    format === 'nvfp4' ? '' : format,
    { nearest: '', stochastic: 'sr', eden: 'eden' }[round],
    square ? 'square' : '',
    of ?? '',
    source ?? '',
    scaleOrder ?? '',
    fourOverSix ?? '',
    headroom === undefined ? '' : headroom.toFixed(3),
    ...Object.keys(rest),
  ]
  return words.filter(word => word !== '').join(' ') || 'row'
}

const gemmText = ({ a, b, hadamard }: Gemm): string =>
  `${operandText(a)} x ${operandText(b)}${hadamard ? `, ${hadamard.size} ${hadamard.signs}` : ''}`

const linearText = ({ fprop, dgrad, wgrad }: LinearRecipe): string => [fprop, dgrad, wgrad].map(gemmText).join(' | ')

/** What fprop, dgrad and wgrad are where no exception holds: figures 4 and 7 to 14 of the paper, and the papers that others are from. */
const products: Readonly<Record<string, string>> = {
  bf16: 'bf16 x bf16 | bf16 x bf16 | bf16 x bf16',
  fp32: 'f32 x f32 | f32 x f32 | f32 x f32',
  fp8: 'fp8 x fp8 square | fp8 x forward | fp8 x fp8',
  mxfp8: 'mxfp8 x mxfp8 | mxfp8 x mxfp8 | mxfp8 x mxfp8',
  mxfp4: 'mxfp4 x mxfp4 square | mxfp4 sr x forward | mxfp4 sr x mxfp4, 32 fixed',
  nvfp4: 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-te': 'm6 x square m6 | sr m6 x forward | sr m6 x m6, 16 fixed',
  nemotron3: 'row x square | sr x forward | sr x row, 16 fixed',
  quartet2: 'mse x mse | eden x eden forward, 128 fresh | eden x eden forward, 128 fresh',
  'nvfp4-4over6': 'mse x square mse | sr x forward | sr x mse, 16 fixed',
  'nvfp4-fp32-weights': 'row x square f32 | sr x forward | sr x row, 16 fixed',
  'nvfp4-headroom': 'row x square | sr 0.941 x forward | sr 0.941 x row, 16 fixed',
  'nvfp4-no-rht': 'row x square | sr x forward | sr x row',
  'nvfp4-no-sr': 'row x square | row x forward | row x row, 16 fixed',
  'nvfp4-no-2d': 'row x row | sr x row | sr x row, 16 fixed',
  'nvfp4-last-4-blocks': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-plain': 'row x row | row x row | row x row',
  'nvfp4-plain-sr': 'row x row | sr x row | sr x row',
  'nvfp4-plain-sr-rht': 'row x row | sr x row | sr x row, 16 fixed',
  'nvfp4-plain-sr-rht-2d': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-last-fifth': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-first-fifth': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-both-tenths': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-sr-on-activations': 'sr x square | row x forward | row x sr, 16 fixed',
  'nvfp4-sr-on-weights': 'row x sr square | row x forward | row x row, 16 fixed',
  'nvfp4-sr-all-backward': 'row x square | sr x sr square | sr x sr, 16 fixed',
  'nvfp4-sr-dgrad-only': 'row x square | sr x forward | row x row, 16 fixed',
  'nvfp4-sr-wgrad-only': 'row x square | row x forward | sr x row, 16 fixed',
  'nvfp4-rht-on-fprop': 'row x row, 16 fixed | sr x square | sr x row',
  'nvfp4-rht-on-dgrad': 'row x square | sr x row, 16 fixed | sr x row',
  'nvfp4-rht-everywhere': 'row x row, 16 fixed | sr x row, 16 fixed | sr x row, 16 fixed',
  'nvfp4-rht-4': 'row x square | sr x forward | sr x row, 4 fixed',
  'nvfp4-rht-32': 'row x square | sr x forward | sr x row, 32 fixed',
  'nvfp4-rht-64': 'row x square | sr x forward | sr x row, 64 fixed',
  'nvfp4-rht-128': 'row x square | sr x forward | sr x row, 128 fixed',
  'nvfp4-signs-fresh': 'row x square | sr x forward | sr x row, 16 fresh',
  'nvfp4-signs-none': 'row x square | sr x forward | sr x row, 16 none',
  'nvfp4-weights-only-same-axis': 'bf16 x row | bf16 x forward | bf16 x bf16',
  'nvfp4-weights-only-square': 'bf16 x square | bf16 x forward | bf16 x bf16',
  'nvfp4-weights-only-other-axis': 'bf16 x row | bf16 x row | bf16 x bf16',
  'nvfp4-activations-only-same-axis': 'row x bf16 | bf16 x bf16 | bf16 x forward',
  'nvfp4-activations-only-square': 'square x bf16 | bf16 x bf16 | bf16 x forward',
  'nvfp4-activations-only-other-axis': 'row x bf16 | bf16 x bf16 | bf16 x row',
  'nvfp4-late-fprop': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-late-all': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-last-all': 'row x square | sr x forward | sr x row, 16 fixed',
  'nvfp4-late-backward': 'row x square | sr x forward | sr x row, 16 fixed',
}

describe('recipes', () => {
  it('make their products of what the papers name', () => {
    const found = Object.fromEntries(
      Object.entries(recipes).map(([name, recipe]) => [name, linearText(linearOf(recipe))]),
    )
    assert.deepEqual(found, products)
  })

  it('hold from a step to the one before another, for the layers of just that name', () => {
    const other = findRecipe('fp32').rules[0]!.use
    const between: Recipe = {
      name: 'mine',
      title: '',
      rules: [
        ...findRecipe('bf16').rules,
        { where: { name: 'layers.1.*_proj' }, from: { share: 0.25 }, to: 8, use: other },
      ],
    }
    assert.deepEqual(phases(between, 10), [0, 3, 8])
    const at = (step: number) => resolveRecipe(between, sites(12), { blocks: 12 }, step, 10).map(({ dgrad }) => dgrad.a)
    const exact = Array.from({ length: 24 }, (_, i) => (i >> 1 === 1 ? 'f32' : 'bf16'))
    for (const step of [3, 7]) assert.deepEqual(at(step), exact)
    for (const step of [0, 2, 8, 9]) assert.ok(at(step).every(operand => operand === 'bf16'))
    assert.deepEqual(
      [0.24, 0.25, 1].map(share => stepOf({ share }, 10)),
      [2, 3, 10],
    )
    assert.deepEqual(phases({ ...between, rules: [{ where: 'all', from: { share: 1 }, use: other }] }, 10), [0])
    assert.equal(matcher({ name: 'layers.1' }, { blocks: 12 })(sites(2)[2]!), false)
  })

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
