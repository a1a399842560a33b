import { formats } from '../formats/formats.ts'
import { RecipeError } from './errors.ts'
import type { Gemm, Operand, Quantized } from './recipe.ts'
import { isQuantized, type LinearSite, type ResolvedRecipe } from './resolve.ts'

/** Which sizes a recipe can run: block formats and rotations want whole blocks along the contraction. */

/** What an operand wants its contraction, or both sides of its tiles, to be a multiple of: FP8's long blocks may be short at the end. */
const blockOf = ({ format }: Quantized): number => (formats[format].scale === 'f32' ? 16 : formats[format].block)

interface Need {
  readonly multiple: number
  /** Of whole blocks, if that is more. */
  readonly whole?: number
  readonly why: string
}

function needs(gemm: Gemm, image: Quantized | undefined): { along: Need[]; across: Need[] } {
  const along: Need[] = []
  const across: Need[] = []
  const add = (operand: Operand | undefined) => {
    if (!operand || !isQuantized(operand)) return
    const { block } = formats[operand.format]
    const need = { multiple: blockOf(operand), ...(Number.isFinite(block) && { whole: block }), why: operand.format }
    along.push(need)
    if (operand.square) across.push(need)
  }
  add(gemm.a)
  add(gemm.b === 'forward' ? undefined : gemm.b)
  if (gemm.b === 'forward' || (isQuantized(gemm.b) && gemm.b.of === 'forward')) add(image)
  if (gemm.hadamard) along.push({ multiple: gemm.hadamard.size, why: `a rotation of ${gemm.hadamard.size}` })
  return { along, across }
}

type Side = 'inputs' | 'outputs' | 'tokens'

const words: Readonly<Record<Side, string>> = {
  inputs: 'input features',
  outputs: 'output features',
  tokens: 'tokens of a micro-batch',
}

function needsOf(recipe: ResolvedRecipe): (Need & { readonly side: Side })[] {
  const gemms: [Gemm, Quantized | undefined, Side, Side[]][] = [
    [recipe.fprop, undefined, 'inputs', ['outputs']],
    [recipe.dgrad, recipe.forward.w, 'outputs', ['inputs']],
    [recipe.wgrad, recipe.forward.x, 'tokens', ['inputs', 'outputs']],
  ]
  return gemms.flatMap(([gemm, image, contraction, others]) => {
    const { along, across } = needs(gemm, image)
    return [
      ...along.map(need => ({ ...need, side: contraction })),
      ...others.flatMap(side => across.map(need => ({ ...need, side }))),
    ]
  })
}

/**
 * What the number of output features is padded to where it may be: whole blocks, also in formats whose last block may be short, because tensor
 * cores take no short ones. All multiples are powers of two, so the largest contains the others.
 */
export const outputMultiple = (recipe: ResolvedRecipe): number =>
  Math.max(1, ...needsOf(recipe).map(({ side, multiple, whole }) => (side !== 'outputs' ? 1 : (whole ?? multiple))))

/**
 * @param shape the layer: y[tokens, rows] = x[tokens, cols] · w[rows, cols]ᵀ.
 * @param tokens rows of a micro-batch.
 * @throws RecipeError such as `layers.0.mixer.up_proj: 1288 output features are not a multiple of 16, which nvfp4 needs; the nearest that works is
 * 1280`.
 */
export function checkShape(
  recipe: ResolvedRecipe,
  shape: LinearSite & { readonly rows: number; readonly cols: number },
  tokens: number,
): void {
  const sizes = { inputs: shape.cols, outputs: shape.rows, tokens }
  for (const { side, multiple, why } of needsOf(recipe)) {
    const size = sizes[side]
    if (size % multiple === 0) continue
    const nearest = Math.max(1, Math.round(size / multiple)) * multiple
    throw new RecipeError(
      `${shape.name}: ${size} ${words[side]} are not a multiple of ${multiple}, which ${why} needs; the nearest that works is ${nearest}`,
    )
  }
}
