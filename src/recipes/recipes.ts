import { ablations } from './ablations.ts'
import type { Gemm, LinearRecipe, Operand, Quantized, Recipe, Rule } from './recipe.ts'

/** The table of recipes. Sources: "the paper" is arXiv 2509.25149; sections are those of docs/numerics.md. */

const gemm = (a: Operand, b: Operand): Gemm => ({ a, b })
const same = (operand: Operand): LinearRecipe => ({
  fprop: gemm(operand, operand),
  dgrad: gemm(operand, operand),
  wgrad: gemm(operand, operand),
})
const bf16Linear = same('bf16')
const everywhere = (use: LinearRecipe): Rule => ({ where: 'all', use })

/** NVFP4 in blocks of 1x16, to nearest. */
const row: Quantized = { format: 'nvfp4', round: 'nearest' }
/** One scale for 16x16 weights, so that fprop and dgrad see the same weights. */
const square: Quantized = { ...row, square: true }
/** For gradients only. */
const stochastic: Quantized = { ...row, round: 'stochastic' }

/** Section "Which tensor gets what": what each linear layer of the paper's method does. */
const nvfp4Linear: LinearRecipe = {
  fprop: gemm(row, square),
  dgrad: gemm(stochastic, 'forward'),
  wgrad: { ...gemm(stochastic, row), hadamard: { size: 16, signs: 'fixed' } },
}

/**
 * Blocks that the model names: the paper's 12B keeps the first two and last eight of 62, its 8B the last eight of 52, its 1.2B
 * the last four of 20 layers; elsewhere about the same share, 15 % at the end (paper, section 4.2 and appendix E.2).
 */
export const sensitiveInBf16: Rule = { where: { sensitive: [0, 0.15] }, use: bf16Linear }

/** `linear` in all blocks but the sensitive ones. */
const withSensitiveInBf16 = (linear: LinearRecipe): Rule[] => [everywhere(linear), sensitiveInBf16]

const withScaleOrder = (linear: LinearRecipe, scaleOrder: 'm6'): LinearRecipe => {
  const set = (operand: Operand): Operand => (typeof operand === 'object' ? { ...operand, scaleOrder } : operand)
  const both = ({ a, b, ...rest }: Gemm): Gemm => ({ ...rest, a: set(a), b: set(b) })
  return { fprop: both(linear.fprop), dgrad: both(linear.dgrad), wgrad: both(linear.wgrad) }
}

const mxfp4: Quantized = { format: 'mxfp4', round: 'nearest' }
const mxfp8Linear = same({ format: 'mxfp8', round: 'nearest' })
const fp8: Quantized = { format: 'fp8', round: 'nearest' }
const better: Quantized = { ...row, fourOverSix: 'mse' }
const eden: Quantized = { format: 'nvfp4', round: 'eden' }
const rotated128 = { size: 128, signs: 'fresh' } as const

/** The paper's method: 16x16 weights, stochastic gradients, wgrad rotated by 16, sensitive blocks in BF16 (section 4, appendix C). */
const nvfp4: Recipe = {
  name: 'nvfp4',
  title: 'NVFP4 as in the paper: 2D weights, stochastic gradients, rotated wgrad, sensitive blocks in BF16',
  rules: withSensitiveInBf16(nvfp4Linear),
}

const base: readonly Recipe[] = [
  /** Operands rounded to BF16, sums in FP32: what the paper's 8B and 1.2B are compared with. */
  { name: 'bf16', title: 'BF16 operands, FP32 sums', rules: [everywhere(bf16Linear)] },
  /** No rounding at all: for oracles. */
  { name: 'fp32', title: 'FP32 throughout', head: 'f32', rules: [everywhere(same('f32'))] },
  /**
   * The paper's 8-bit baseline of the 12B (appendix A.1; section "FP8 baseline"): E4M3 for all tensors, weights in tiles of
   * 128x128, activations and gradients in 1x128, first block and last two in BF16.
   */
  {
    name: 'fp8',
    title: 'FP8 E4M3 in 1x128 and 128x128 blocks, first block and last two in BF16: the paper’s baseline',
    rules: [
      everywhere({
        fprop: gemm(fp8, { ...fp8, square: true }),
        dgrad: gemm(fp8, 'forward'),
        wgrad: gemm(fp8, fp8),
      }),
      { where: { blocks: [0, 1] }, use: bf16Linear },
      { where: { blocks: [-2] }, use: bf16Linear },
    ],
  },
  /** E4M3 with UE8M0 scales per 32, all tensors and all layers (arXiv 2506.08027; section "MXFP4 / MXFP8"). */
  { name: 'mxfp8', title: 'MXFP8: E4M3 in blocks of 32', rules: [everywhere(mxfp8Linear)] },
  /** The paper's comparison (section 5): the method of section 4 with MXFP4, rotation 32; tiles of 32x32 by analogy. */
  {
    name: 'mxfp4',
    title: 'MXFP4 with the method of the paper: 2D weights, stochastic gradients, rotation 32',
    rules: withSensitiveInBf16({
      fprop: gemm(mxfp4, { ...mxfp4, square: true }),
      dgrad: gemm({ ...mxfp4, round: 'stochastic' }, 'forward'),
      wgrad: { ...gemm({ ...mxfp4, round: 'stochastic' }, mxfp4), hadamard: { size: 32, signs: 'fixed' } },
    }),
  },
  nvfp4,
  /** As TransformerEngine 2.14 and later, which multiplies by the reciprocal of six (section "Scales and elements"). */
  {
    name: 'nvfp4-te',
    title: 'NVFP4 with the scale arithmetic of TransformerEngine 2.14 and later',
    rules: withSensitiveInBf16(withScaleOrder(nvfp4Linear, 'm6')),
  },
  /** NVIDIA's later practice: more layers kept, and Mamba's out_proj, of which NVFP4 flushes up to 40 % to zero, in MXFP8. */
  {
    name: 'nemotron3',
    title: 'NVFP4 as for Nemotron 3: attention and last 15 % in BF16, Mamba out_proj in MXFP8',
    rules: [
      everywhere(nvfp4Linear),
      { where: { name: '*.mixer.out_proj' }, use: mxfp8Linear },
      { where: { name: '*.mixer.qkv_proj' }, use: bf16Linear },
      { where: { name: '*.mixer.o_proj' }, use: bf16Linear },
      { where: { blocks: [-0.15] }, use: bf16Linear },
    ],
  },
  /** Quartet II (arXiv 2601.22813; section "MS-EDEN"): four-over-six forward, MS-EDEN backward on rotated vectors of 128. */
  {
    name: 'quartet2',
    title: 'Quartet II: four-over-six forward, unbiased MS-EDEN backward',
    rules: [
      everywhere({
        fprop: gemm(better, better),
        dgrad: { ...gemm(eden, { ...eden, of: 'forward' }), hadamard: rotated128 },
        wgrad: { ...gemm(eden, { ...eden, of: 'forward' }), hadamard: rotated128 },
      }),
    ],
  },
  /** The paper's method with the better of two scales for activations and weights (arXiv 2512.02010; section "Four-over-six"). */
  {
    name: 'nvfp4-4over6',
    title: 'NVFP4 with four-over-six for activations and weights',
    rules: withSensitiveInBf16({
      fprop: gemm(better, { ...better, square: true }),
      dgrad: nvfp4Linear.dgrad,
      wgrad: { ...nvfp4Linear.wgrad, b: better },
    }),
  },
  /** As Megatron trains with FP4 parameters: the images of weights come from FP32 at once (section "Scales and elements"). */
  {
    name: 'nvfp4-fp32-weights',
    title: 'NVFP4 with weights quantised from FP32 instead of from their BF16 rounding',
    rules: withSensitiveInBf16({ ...nvfp4Linear, fprop: gemm(row, { ...square, source: 'f32' }) }),
  },
  /** Gradients scaled so that rounding the block scale cannot saturate them (section "Headroom"). */
  {
    name: 'nvfp4-headroom',
    title: 'NVFP4 with headroom for gradients: no saturation, unbiased',
    rules: withSensitiveInBf16({
      fprop: nvfp4Linear.fprop,
      dgrad: { ...nvfp4Linear.dgrad, a: { ...stochastic, headroom: 16 / 17 } },
      wgrad: { ...nvfp4Linear.wgrad, a: { ...stochastic, headroom: 16 / 17 } },
    }),
  },
]

/** Every recipe by name. */
export const recipes: Readonly<Record<string, Recipe>> = Object.fromEntries(
  [...base, ...ablations({ nvfp4Linear, bf16Linear, sensitiveInBf16 })].map(recipe => [recipe.name, recipe]),
)

/** How a recipe does a linear layer that none of its exceptions is for: its first rule, which covers all layers and products. */
export const linearOf = ({ rules }: Recipe): LinearRecipe => rules[0]!.use as LinearRecipe

/** @throws Error listing what there is. */
export function findRecipe(name: string): Recipe {
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined
  if (!recipe) throw new Error(`recipe "${name}" is unknown; use one of ${Object.keys(recipes).join(', ')}`)
  return recipe
}
