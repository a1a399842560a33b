import type { Gemm, LinearRecipe, Operand, Quantized, Recipe, Rule, Step } from './recipe.ts'

/**
 * The paper's ablations as changes to its method, one entry each. Figures and appendices are those of arXiv 2509.25149; the
 * table of expected orders is in docs/numerics.md, "Training hyper-parameters and ablations".
 */

interface Parts {
  readonly nvfp4Linear: LinearRecipe
  readonly bf16Linear: LinearRecipe
  readonly sensitiveInBf16: Rule
}

/** The share of tokens after which the paper's 12B changes precision: 8.2 of 10 trillion (appendix D). */
const lateSwitch: Step = { share: 0.82 }
/** Its other switch, close to the end, has no step in the text: here within the decay. */
const lastSwitch: Step = { share: 0.96 }

export function ablations({ nvfp4Linear, bf16Linear, sensitiveInBf16 }: Parts): Recipe[] {
  const { fprop, dgrad, wgrad } = nvfp4Linear
  const row = fprop.a as Quantized
  const square = fprop.b as Quantized
  const stochastic = dgrad.a as Quantized
  const stochasticSquare: Quantized = { ...square, round: 'stochastic' }
  const rotation = wgrad.hadamard!
  const unrotated: Gemm = { a: wgrad.a, b: wgrad.b }

  const variant = (name: string, title: string, change: Partial<LinearRecipe>, ...more: Rule[]): Recipe => ({
    name: `nvfp4-${name}`,
    title: `NVFP4 ${title}`,
    rules: [{ where: 'all', use: { ...nvfp4Linear, ...change } }, sensitiveInBf16, ...more],
  })
  const keeping = (name: string, title: string, ...blocks: [number, number?][]): Recipe => ({
    name: `nvfp4-${name}`,
    title: `NVFP4 ${title}`,
    rules: [
      { where: 'all', use: nvfp4Linear },
      ...blocks.map((range): Rule => ({ where: { blocks: range }, use: bf16Linear })),
    ],
  })
  const stacked = (name: string, title: string, linear: LinearRecipe): Recipe => ({
    name: `nvfp4-${name}`,
    title: `NVFP4 ${title}`,
    rules: [{ where: 'all', use: linear }],
  })
  const onlyWeights = (w: Quantized, again: Operand): Partial<LinearRecipe> => ({
    fprop: { a: 'bf16', b: w },
    dgrad: { a: 'bf16', b: again },
    wgrad: bf16Linear.wgrad,
  })
  const onlyActivations = (x: Quantized, again: Operand): Partial<LinearRecipe> => ({
    fprop: { a: x, b: 'bf16' },
    dgrad: bf16Linear.dgrad,
    wgrad: { a: 'bf16', b: again },
  })
  const plain: LinearRecipe = { fprop: { a: row, b: row }, dgrad: { a: row, b: row }, wgrad: { a: row, b: row } }
  const plainStochastic: LinearRecipe = {
    ...plain,
    dgrad: { a: stochastic, b: row },
    wgrad: { a: stochastic, b: row },
  }
  const plainRotated: LinearRecipe = { ...plainStochastic, wgrad }
  const oneDimensional: LinearRecipe = { fprop: plain.fprop, dgrad: { a: stochastic, b: row }, wgrad }

  return [
    // Figure 4: one component less
    variant('no-rht', 'without the random Hadamard transform', { wgrad: unrotated }),
    variant('no-sr', 'with gradients rounded to nearest', {
      dgrad: { a: row, b: 'forward' },
      wgrad: { a: row, b: row, hadamard: rotation },
    }),
    variant('no-2d', 'with weights in 1x16 blocks', oneDimensional),
    keeping('last-4-blocks', 'with only the last four blocks in BF16', [-4]),

    // E.1, figure 8: techniques added one by one to plain NVFP4, which diverges
    stacked('plain', 'alone: 1x16, to nearest, no rotation, no BF16 blocks', plain),
    stacked('plain-sr', 'plain, and stochastic gradients', plainStochastic),
    stacked('plain-sr-rht', 'plain, stochastic gradients, rotation', plainRotated),
    stacked('plain-sr-rht-2d', 'with everything but BF16 blocks', nvfp4Linear),

    // E.2, figure 9: which blocks stay in BF16; counts of the 1.2B's 20 layers as shares
    keeping('last-fifth', 'with the last fifth of the blocks in BF16', [-0.2]),
    keeping('first-fifth', 'with the first fifth of the blocks in BF16', [0, 0.2]),
    keeping('both-tenths', 'with the first and last tenth of the blocks in BF16', [0, 0.1], [-0.1]),

    // E.3, figure 10: where to round stochastically
    variant('sr-on-activations', 'with stochastic activations instead of gradients', {
      fprop: { a: stochastic, b: square },
      dgrad: { a: row, b: 'forward' },
      wgrad: { a: row, b: stochastic, hadamard: rotation },
    }),
    variant('sr-on-weights', 'with stochastic weights instead of gradients', {
      fprop: { a: row, b: stochasticSquare },
      dgrad: { a: row, b: 'forward' },
      wgrad: { a: row, b: row, hadamard: rotation },
    }),
    variant('sr-all-backward', 'with every operand of dgrad and wgrad stochastic', {
      dgrad: { a: stochastic, b: stochasticSquare },
      wgrad: { a: stochastic, b: stochastic, hadamard: rotation },
    }),
    variant('sr-dgrad-only', 'with stochastic gradients in dgrad alone', {
      wgrad: { a: row, b: row, hadamard: rotation },
    }),
    variant('sr-wgrad-only', 'with stochastic gradients in wgrad alone', { dgrad: { a: row, b: 'forward' } }),

    // E.4.1, figure 11: where to rotate; rotated weights are quantised for their own GEMM, in 1x16
    variant('rht-on-fprop', 'rotated in fprop instead of wgrad', {
      fprop: { a: row, b: row, hadamard: rotation },
      dgrad: { a: stochastic, b: square },
      wgrad: unrotated,
    }),
    variant('rht-on-dgrad', 'rotated in dgrad instead of wgrad', {
      dgrad: { a: stochastic, b: row, hadamard: rotation },
      wgrad: unrotated,
    }),
    variant('rht-everywhere', 'rotated in all three GEMMs', {
      fprop: { a: row, b: row, hadamard: rotation },
      dgrad: { a: stochastic, b: row, hadamard: rotation },
    }),

    // E.4.2, figure 12: sizes of the rotation
    ...([4, 32, 64, 128] as const).map(size =>
      variant(`rht-${size}`, `with rotations of ${size}`, { wgrad: { ...wgrad, hadamard: { ...rotation, size } } }),
    ),
    // E.4.3, figure 13: its signs
    variant('signs-fresh', 'with signs drawn for each GEMM and step', {
      wgrad: { ...wgrad, hadamard: { ...rotation, signs: 'fresh' } },
    }),
    variant('signs-none', 'without random signs', { wgrad: { ...wgrad, hadamard: { ...rotation, signs: 'none' } } }),

    // E.5, figure 14: the same quantised tensor in forward and backward, or not
    variant(
      'weights-only-same-axis',
      'of weights alone, the same 1x16 codes in both passes',
      onlyWeights(row, 'forward'),
    ),
    variant('weights-only-square', 'of weights alone, 16x16', onlyWeights(square, 'forward')),
    variant('weights-only-other-axis', 'of weights alone, 1x16 along each contraction', onlyWeights(row, row)),
    variant(
      'activations-only-same-axis',
      'of activations alone, the same 1x16 codes in both passes',
      onlyActivations(row, 'forward'),
    ),
    variant('activations-only-square', 'of activations alone, 16x16', onlyActivations(square, 'forward')),
    variant(
      'activations-only-other-axis',
      'of activations alone, 1x16 along each contraction',
      onlyActivations(row, row),
    ),

    // Appendix D, figure 7: BF16 from a late step on, before the learning rate decays
    variant(
      'late-fprop',
      'and fprop in BF16 from 82 % of the steps',
      {},
      {
        where: 'all',
        from: lateSwitch,
        use: { fprop: bf16Linear.fprop },
      },
    ),
    variant(
      'late-all',
      'and everything in BF16 from 82 % of the steps',
      {},
      {
        where: 'all',
        from: lateSwitch,
        use: bf16Linear,
      },
    ),
    variant(
      'last-all',
      'and everything in BF16 from 96 % of the steps',
      {},
      {
        where: 'all',
        from: lastSwitch,
        use: bf16Linear,
      },
    ),
    {
      // With dgrad in BF16 nothing needs square weights.
      name: 'nvfp4-late-backward',
      title: 'NVFP4 and the backward pass in BF16 from 82 % of the steps',
      rules: [
        { where: 'all', use: nvfp4Linear },
        { where: 'all', from: lateSwitch, use: { ...bf16Linear, fprop: { a: row, b: row } } },
        sensitiveInBf16,
      ],
    },
  ]
}
