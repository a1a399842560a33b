import { formats } from '../formats/formats.ts'
import type { Gemm, LinearRecipe, Operand, Quantized, Recipe, Rule } from '../recipes/recipe.ts'
import { sensitiveInBf16 } from '../recipes/recipes.ts'
import { type Depth, isQuantized, type LinearSite, matcher, type ResolvedRecipe } from '../recipes/resolve.ts'

/**
 * Recipes made from another by changing its data: one product alone, one technique less or more. Nothing here knows a recipe by name.
 */

/** What every linear layer of a model does at one step of a run. */
export interface Layers {
  readonly sites: readonly LinearSite[]
  readonly depth: Depth
  readonly resolved: readonly ResolvedRecipe[]
  /** What operands that are not quantised are rounded to. */
  readonly plain: 'f32' | 'bf16'
}

type Change = (layer: ResolvedRecipe) => ResolvedRecipe

const gemmNames = ['fprop', 'dgrad', 'wgrad'] as const
type GemmName = (typeof gemmNames)[number]

const isCoded = (operand: Operand): boolean => operand === 'forward' || isQuantized(operand)
export const quantisesGemm = (layer: ResolvedRecipe, name: GemmName): boolean => {
  const { a, b } = layer[name]
  return isCoded(a) || isCoded(b)
}

/** Whether a linear layer quantises an operand of any of its products. */
export const quantises = (layer: ResolvedRecipe): boolean => gemmNames.some(name => quantisesGemm(layer, name))

export const plainLayer = (plain: Operand): ResolvedRecipe => {
  const gemm: Gemm = { a: plain, b: plain }
  return { fprop: gemm, dgrad: gemm, wgrad: gemm, forward: {} }
}

/** Items that have the same text, in groups, the largest first. */
function grouped<T>(items: Iterable<T>, textOf: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const text = textOf(item)
    groups.set(text, [...(groups.get(text) ?? []), item])
  }
  return [...groups.values()].sort((a, b) => b.length - a.length)
}

/** How most of the quantised layers are done; undefined if none is quantised. */
export const typical = ({ resolved }: Layers): ResolvedRecipe | undefined =>
  grouped(resolved.filter(quantises), layer => JSON.stringify(layer))[0]?.[0]

const mapQuantised = ({ resolved }: Layers, change: Change): ResolvedRecipe[] =>
  resolved.map(layer => (quantises(layer) ? change(layer) : layer))

/** Every quantised operand replaced by what `change` makes of it, the images of forward included. */
function mapSpecs(layer: ResolvedRecipe, change: (spec: Quantized) => Quantized): ResolvedRecipe {
  const operand = (value: Operand): Operand => (isQuantized(value) ? change(value) : value)
  const gemm = ({ a, b, ...rest }: Gemm): Gemm => ({ ...rest, a: operand(a), b: operand(b) })
  const { x, w } = layer.forward
  return {
    fprop: gemm(layer.fprop),
    dgrad: gemm(layer.dgrad),
    wgrad: gemm(layer.wgrad),
    forward: { x: x && change(x), w: w && change(w) },
  }
}

/** The layers as a recipe. What the largest group of equal layers does is its first rule; the others follow by name. */
export function asRecipe(name: string, { sites, plain }: Layers, resolved: readonly ResolvedRecipe[]): Recipe {
  const [first, ...others] = grouped(sites.keys(), i => JSON.stringify(resolved[i]))
  const rules = (where: Rule['where'], layer: ResolvedRecipe): Rule[] => {
    const { forward, ...use } = layer
    const image = { a: forward.x ?? plain, b: forward.w ?? plain }
    const own = isQuantized(use.fprop.a) && isQuantized(use.fprop.b)
    return [...(own || !(forward.x || forward.w) ? [] : [{ where, use: { fprop: image } }]), { where, use }]
  }
  return {
    name,
    title: name,
    head: plain,
    rules: [
      ...rules('all', resolved[first![0]!]!),
      ...others.flatMap(group => group.flatMap(i => rules({ name: sites[i]!.name }, resolved[i]!))),
    ],
  }
}

interface Technique {
  readonly title: string
  has(layers: Layers): boolean
  remove(layers: Layers): ResolvedRecipe[]
  add(layers: Layers): ResolvedRecipe[]
}

const specsOf = ({ fprop, dgrad, wgrad, forward }: ResolvedRecipe): Quantized[] =>
  [fprop, dgrad, wgrad]
    .flatMap(({ a, b }) => [a, b].filter(isQuantized))
    .concat(Object.values(forward).filter(spec => spec !== undefined))

const anySpec =
  (test: (spec: Quantized) => boolean) =>
  ({ resolved }: Layers): boolean =>
    resolved.some(layer => quantises(layer) && specsOf(layer).some(test))

const withoutRotation = ({ a, b }: Gemm): Gemm => ({ a, b })

/** Codes of a product's second operand that were those of forward, made for that product along its own contraction. */
const ownCodes = (gemm: Gemm, image: Quantized | undefined): Gemm =>
  gemm.b === 'forward' && isQuantized(gemm.a) && image ? { ...gemm, b: image } : gemm

const withoutSquares: Change = layer => {
  const { fprop, dgrad, wgrad, forward } = mapSpecs(layer, ({ square, ...spec }) => spec)
  return { fprop, dgrad: ownCodes(dgrad, forward.w), wgrad: ownCodes(wgrad, forward.x), forward }
}

const withSquareWeights: Change = layer => {
  const { fprop, dgrad, forward } = layer
  const { w } = forward
  if (!w || fprop.hadamard || w.round === 'eden' || w.outer === 'row') return layer
  const image: Quantized = { ...w, square: true }
  const shares = isQuantized(dgrad.b) && !dgrad.b.of && !dgrad.hadamard
  return {
    ...layer,
    fprop: isQuantized(fprop.b) ? { ...fprop, b: image } : fprop,
    dgrad: shares ? { ...dgrad, b: 'forward' } : dgrad,
    forward: { ...forward, w: image },
  }
}

const stochasticGradient = (gemm: Gemm): Gemm =>
  isQuantized(gemm.a) ? { ...gemm, a: { ...gemm.a, round: 'stochastic' } } : gemm

/** As long as a block, so that rotation spreads an outlier over the values that share its scale; at most the paper's where blocks are longer. */
const rotationSize = ({ format }: Quantized): 16 | 32 => (formats[format].block === 32 ? 32 : 16)

const rotatedWgrad: Change = layer => {
  const { a, b } = layer.wgrad
  if (!isQuantized(a) || !isQuantized(b) || layer.wgrad.hadamard) return layer
  return { ...layer, wgrad: { a, b, hadamard: { size: rotationSize(a), signs: 'fixed' } } }
}

/** The paper's four (section 4). */
const techniques: readonly Technique[] = [
  {
    title: 'stochastic rounding',
    has: anySpec(({ round }) => round !== 'nearest'),
    remove: layers => mapQuantised(layers, layer => mapSpecs(layer, spec => ({ ...spec, round: 'nearest' }))),
    add: layers =>
      mapQuantised(layers, layer => ({
        ...layer,
        dgrad: stochasticGradient(layer.dgrad),
        wgrad: stochasticGradient(layer.wgrad),
      })),
  },
  {
    title: 'Hadamard rotation',
    has: ({ resolved }) => resolved.some(layer => gemmNames.some(name => layer[name].hadamard)),
    remove: layers =>
      mapQuantised(layers, ({ fprop, dgrad, wgrad, forward }) => ({
        fprop: withoutRotation(fprop),
        dgrad: withoutRotation(dgrad),
        wgrad: withoutRotation(wgrad),
        forward,
      })),
    add: layers => mapQuantised(layers, rotatedWgrad),
  },
  {
    title: 'square scaling',
    has: anySpec(({ square }) => square === true),
    remove: layers => mapQuantised(layers, withoutSquares),
    add: layers => mapQuantised(layers, withSquareWeights),
  },
  {
    title: 'high-precision blocks',
    has: ({ resolved }) => !resolved.every(quantises),
    remove: layers => allQuantised(layers),
    add: layers => {
      const keeps = matcher(sensitiveInBf16.where, layers.depth)
      return layers.resolved.map((layer, i) => (keeps(layers.sites[i]!) ? plainLayer(layers.plain) : layer))
    },
  },
]

/** Layers that are not quantised done as most of the others are. */
export function allQuantised(layers: Layers): ResolvedRecipe[] {
  const quantised = typical(layers)
  return layers.resolved.map(layer => (quantises(layer) || !quantised ? layer : quantised))
}

export interface Variant {
  /** A row of a table: `fprop alone`, `without stochastic rounding`. */
  readonly name: string
  readonly recipe: Recipe
  /** The same with fprop unquantised, so that errors of the gradient are those of dgrad and wgrad; undefined if these are not quantised. */
  readonly backward: Recipe | undefined
  /** Whether fprop is quantised in any layer. */
  readonly forward: boolean
}

const variant = (name: string, layers: Layers, resolved: readonly ResolvedRecipe[]): Variant => {
  const { fprop } = plainLayer(layers.plain)
  const backward = resolved.map(layer => ({ ...layer, fprop }))
  return {
    name,
    recipe: asRecipe(name, layers, resolved),
    backward: backward.some(quantises) ? asRecipe(`${name}, backward`, layers, backward) : undefined,
    forward: resolved.some(layer => quantisesGemm(layer, 'fprop')),
  }
}

/** Nothing quantised: what all others are compared with. */
export const unquantised = (layers: Layers): Variant =>
  variant(
    'unquantised',
    layers,
    layers.resolved.map(() => plainLayer(layers.plain)),
  )

/** A layer that does one product as it is and the others unquantised. */
export const alone =
  (name: GemmName, plain: Operand): Change =>
  layer => ({ ...plainLayer(plain), [name]: layer[name], forward: layer.forward })

/** Whether two layers compute the same: the image of forward counts only where it is read. */
const text = (layers: readonly ResolvedRecipe[]): string => JSON.stringify(layers.map(({ forward, ...gemms }) => gemms))

/** The recipe as it is, each product that it quantises alone, and each technique removed or, where the recipe lacks it, added. */
export function variantsOf(name: string, layers: Layers): Variant[] {
  const { resolved, plain } = layers
  const products = gemmNames.filter(gemm => resolved.some(layer => quantisesGemm(layer, gemm)))
  const rows: { name: string; resolved: ResolvedRecipe[] }[] = [
    ...products.map(gemm => ({ name: `${gemm} alone`, resolved: mapQuantised(layers, alone(gemm, plain)) })),
    ...techniques.map(({ title, has, remove, add }) =>
      has(layers)
        ? { name: `without ${title}`, resolved: remove(layers) }
        : { name: `with ${title}`, resolved: add(layers) },
    ),
  ]
  return [
    variant(name, layers, resolved),
    ...rows.filter(row => text(row.resolved) !== text(resolved)).map(row => variant(row.name, layers, row.resolved)),
  ]
}

/** Whether the recipe makes random decisions, so that its gradients differ from draw to draw. */
export const isRandom = ({ rules }: Recipe): boolean =>
  rules.some(({ use }) =>
    Object.values(use as LinearRecipe).some(
      ({ a, b, hadamard }) =>
        hadamard?.signs === 'fresh' || [a, b].some(operand => isQuantized(operand) && operand.round !== 'nearest'),
    ),
  )
