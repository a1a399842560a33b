import { formats } from '../formats/formats.ts'
import type { Gemm, Operand, Quantized, Recipe } from '../recipes/recipe.ts'
import { isQuantized, phases, type ResolvedRecipe, resolveRecipe } from '../recipes/resolve.ts'
import { dtypes } from '../tensor/dtype.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { blockKinds } from './blocks/index.ts'
import { keepsCopies, keepsPanels, type LinearShape, type ModelConfig } from './config.ts'
import { linearShapes, parameterSpecs } from './parameters.ts'
import { readInBf16 } from './working_copies.ts'

/** What a model of this shape costs, without building it. Bytes and floating-point operations are exact counts, not estimates. */
export interface ModelDescription {
  readonly parameters: number
  /** By kind of block, embedding and head; `blocks` is how many there are. */
  readonly kinds: readonly { readonly title: string; readonly blocks: number; readonly parameters: number }[]
  /** Of a token, forward and backward; attention as if every token saw half of its sequence. */
  readonly flops: { readonly linears: number; readonly mixers: number; readonly head: number; readonly total: number }
  /** Every linear layer that the recipe rules, with the format of its GEMMs. */
  readonly linears: readonly (LinearShape & { readonly format: string })[]
  /** How many linears run in each format, in order of appearance. */
  readonly formats: Readonly<Record<string, number>>
  readonly memory: {
    readonly weights: number
    readonly gradients: number
    /** Both moments of AdamW. */
    readonly moments: number
    /** Images of quantised weights. */
    readonly images: number
    /** Weights rounded to BF16, of those that enter products so, and where each lies, where that is kept. */
    readonly copies: number
    /** Images of 4-bit weights as products read them, kept on backends that have a form for it. */
    readonly panels: number
    /**
     * Inputs of linear layers that a token keeps for wgrad, and what they would take in BF16; where blocks are recomputed, of the block that
     * keeps most.
     */
    readonly inputsPerToken: number
    readonly inputsPerTokenBf16: number
    /** Everything else that a token keeps for the backward pass. */
    readonly othersPerToken: number
  }
}

/** Stored bits of a value, scales included. */
export function bitsOf(operand: Exclude<Operand, 'forward'>): number {
  if (operand === 'f32') return 32
  if (operand === 'bf16') return 16
  const { element, block, scale } = formats[operand.format]
  const scaleBits = scale === 'f32' ? 32 : 8
  return element.bits + scaleBits / (operand.square && scale === 'f32' ? block * block : block)
}

const imageOf = (operand: Operand, forward: Quantized | undefined): Exclude<Operand, 'forward'> =>
  operand === 'forward' || (isQuantized(operand) && operand.of === 'forward') ? forward! : operand

const labelOf = (operand: Exclude<Operand, 'forward'>): string => (isQuantized(operand) ? operand.format : operand)

/** `nvfp4`, or what each GEMM does where they differ. */
export function formatOf({ fprop, dgrad, wgrad, forward }: ResolvedRecipe): string {
  const label = ({ a, b }: Gemm, image: Quantized | undefined): string => {
    const [first, second] = [labelOf(imageOf(a, undefined)), labelOf(imageOf(b, image))]
    return first === second ? first : `${first} x ${second}`
  }
  const labels = { fprop: label(fprop, forward.w), dgrad: label(dgrad, forward.w), wgrad: label(wgrad, forward.x) }
  if (new Set(Object.values(labels)).size === 1) return labels.fprop
  return Object.entries(labels)
    .map(([name, format]) => `${name} ${format}`)
    .join(', ')
}

/** Stored bits of a weight in its images: one shared by both passes, or one for each. */
function weightBits({ fprop, dgrad, forward }: ResolvedRecipe): number {
  const wanted = [imageOf(fprop.b, forward.w), imageOf(dgrad.b, forward.w)].filter(isQuantized)
  const shared = dgrad.b === 'forward' && !isQuantized(dgrad.a)
  const bits = wanted.map(bitsOf)
  return shared ? (bits[0] ?? 0) : bits.reduce((sum, n) => sum + n, 0)
}

/** Bits of a value of the weight in the panels of the products that read its images (src/kernels/pack/pack.ts). */
function panelBits({ fprop, dgrad, forward }: ResolvedRecipe): number {
  const bits = ({ a, b }: Gemm): number => {
    const image = imageOf(b, forward.w)
    if (!isQuantized(a) || !isQuantized(image) || formats[image.format].element.bits !== 4) return 0
    return 8 * (1 + 4 / formats[image.format].block)
  }
  return bits(fprop) + bits(dgrad)
}

/**
 * @param sequence tokens in a sequence.
 * @throws Error if the pattern has a block that does not exist or the recipe leaves a layer open.
 */
export function describeModel(
  config: ModelConfig,
  recipe: Recipe,
  sequence: number,
  step = 0,
  steps = 1,
): ModelDescription {
  const specs = parameterSpecs(config)
  const count = (list: readonly { shape: readonly number[] }[]): number =>
    list.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  const parameters = count(specs.all)
  const table = config.vocab * config.hidden
  const mixers = Object.entries(blockKinds).flatMap(([kind, { title }]) => {
    const blocks = specs.blocks.filter(block => block.kind === kind)
    return blocks.length === 0
      ? []
      : [{ title, blocks: blocks.length, parameters: count(blocks.flatMap(block => block.parameters)) }]
  })

  const shapes = linearShapes(specs)
  const depth = { blocks: config.pattern.length, sensitive: config.bf16_blocks }
  const resolved = resolveRecipe(recipe, shapes, depth, step, steps)
  const linears = shapes.map((shape, i) => ({ ...shape, format: formatOf(resolved[i]!) }))
  const perFormat: Record<string, number> = {}
  for (const { format } of linears) perFormat[format] = (perFormat[format] ?? 0) + 1

  const inPhases = phases(recipe, steps).map(start => resolveRecipe(recipe, shapes, depth, start, steps))
  const names = readInBf16(recipe, shapes, inPhases)
  const copied = count(specs.all.filter(({ name }) => names.has(name)))
  const weights = shapes.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
  const kinds = specs.blocks.map(({ kind }) => blockKinds[kind]!)
  const outside = kinds.reduce((sum, kind) => sum + kind.flops(config, sequence), 0)
  const flops = { linears: 6 * weights, mixers: 3 * outside, head: 6 * table }
  const act = dtypes[config.activations].bytes
  // By block: inputs of its linear layers as kept and in BF16, and all else.
  const kept = kinds.map((kind, block) => {
    const bytes = (bits: (i: number) => number) =>
      shapes.reduce((sum, { cols, block: of }, i) => (of === block ? sum + (cols * bits(i)) / 8 : sum), 0)
    return {
      inputs: bytes(i => bitsOf(imageOf(resolved[i]!.wgrad.b, resolved[i]!.forward.x))),
      inputsBf16: bytes(() => 16),
      others: act * kind.saved(config, sequence),
    }
  })
  const largest = kept.reduce((most, block) => (block.inputs + block.others > most.inputs + most.others ? block : most))
  const alive = config.recompute === 'block' ? [largest] : kept
  const total = (what: keyof (typeof kept)[number]) => alive.reduce((sum, block) => sum + block[what], 0)
  return {
    parameters,
    kinds: [
      { title: 'embedding', blocks: 1, parameters: table },
      ...mixers,
      { title: 'final norm', blocks: 1, parameters: config.hidden },
      { title: 'head', blocks: 1, parameters: table },
    ],
    flops: { ...flops, total: flops.linears + flops.mixers + flops.head },
    linears,
    formats: perFormat,
    memory: {
      weights: 4 * parameters,
      gradients: 4 * parameters,
      moments: 8 * parameters,
      images: shapes.reduce((sum, { rows, cols }, i) => sum + (rows * cols * weightBits(resolved[i]!)) / 8, 0),
      panels: keepsPanels(config)
        ? shapes.reduce((sum, { rows, cols }, i) => sum + (rows * cols * panelBits(resolved[i]!)) / 8, 0)
        : 0,
      copies: keepsCopies(config) && copied > 0 ? 2 * copied + parameters / 4 : 0,
      inputsPerToken: total('inputs'),
      inputsPerTokenBf16: total('inputsBf16'),
      othersPerToken: act * config.hidden * (kinds.length + 1) + total('others'),
    },
  }
}
