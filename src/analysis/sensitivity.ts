import { confidence } from '../compare/statistics.ts'
import { UserError } from '../config/errors.ts'
import { checkModel } from '../model/model.ts'
import type { Role } from '../ops/linear.ts'
import { RecipeError } from '../recipes/errors.ts'
import type { Recipe } from '../recipes/recipe.ts'
import { sensitiveInBf16 } from '../recipes/recipes.ts'
import { matcher, type ResolvedRecipe } from '../recipes/resolve.ts'
import { measure } from '../train/numerics.ts'
import { compareLosses, type LossDifference, type Probe, type Probed } from './probe.ts'
import { allQuantised, alone, asRecipe, plainLayer, quantises, quantisesGemm, unquantised } from './variants.ts'

/**
 * Which linear layers suffer most from a recipe. So that all are judged alike, layers that the recipe keeps in high precision are first
 * quantised as most of the others are. Then, of each layer,
 *
 *   weights, activations, gradients   relative error of what is quantised, sqrt(sum (v - x)^2 / sum x^2), from lines of the operands
 *   wgrad                             relative error of the product of quantised operands against that of the same operands in high precision:
 *                                     of the weight's gradient with only this product quantised
 *   loss                              how far the held-out loss falls, relative to itself, when this layer alone is in high precision
 *
 * and a score: the share of the other layers that suffer less (half of those that suffer as much), mean over these five.
 */

export const measures = ['weights', 'activations', 'gradients', 'wgrad', 'loss'] as const
export type Measure = (typeof measures)[number]

type Errors = Readonly<Record<Exclude<Measure, 'loss'>, number | null>>

export interface LayerSensitivity extends Errors {
  readonly linear: string
  readonly block: number
  readonly parameters: number
  /** Against every layer quantised; positive where the loss falls. Undefined where a loss is not finite. */
  readonly loss: LossDifference | null
  readonly score: number
  /** From 1, the most sensitive. */
  readonly rank: number
  /** Whether the run's own recipe has it in high precision. */
  readonly high_in_run: boolean
}

export interface Sensitivity {
  readonly format: 1
  readonly run: string
  readonly recipe: string
  /** Of the checkpoint. */
  readonly step: number
  readonly by: Measure | 'score'
  readonly validation: { readonly batches: number; readonly tokens: number; readonly loss: number }
  readonly draws: number
  readonly confidence: number
  /** Most sensitive first. */
  readonly layers: readonly LayerSensitivity[]
  readonly last_blocks: LastBlocks
}

/** Whether the last blocks, about 15 % of them, are the most sensitive, as the paper finds (section 4.2, appendix E.2). */
export interface LastBlocks {
  readonly blocks: number
  readonly of_blocks: number
  readonly linears: number
  /** How many of them are among as many of the most sensitive layers, and how many would be in a random order. */
  readonly among_most_sensitive: number
  readonly expected: number
  /** The same by each measure. */
  readonly by: Readonly<Record<Measure, number>>
}

export interface SensitivityOptions extends Probed {
  readonly draws: number
  readonly by: Measure | 'score'
}

/** How often an operand is looked at each time that it is made, at other lines each time: few lines would rank layers by chance. */
const looks = 8

/** Which of the errors an operand counts for. */
const measureOf: Readonly<Record<Role, Exclude<Measure, 'loss' | 'wgrad'>>> = {
  wRows: 'weights',
  wColumns: 'weights',
  xRows: 'activations',
  xColumns: 'activations',
  dyRows: 'gradients',
  dyColumns: 'gradients',
}

/** Mean of noise over signal for each layer and measure, gathered operand by operand. */
class OperandErrors {
  readonly #sums = new Map<string, { sum: number; count: number }>()

  add(linear: string, role: Role, snr: number | null): void {
    const key = `${linear} ${measureOf[role]}`
    const entry = this.#sums.get(key) ?? { sum: 0, count: 0 }
    entry.sum += snr === null ? 0 : 10 ** (-snr / 10)
    entry.count++
    this.#sums.set(key, entry)
  }

  of(linear: string, what: Measure): number | null {
    const entry = this.#sums.get(`${linear} ${what}`)
    return entry ? Math.sqrt(entry.sum / entry.count) : null
  }
}

type Unranked = Omit<LayerSensitivity, 'score' | 'rank'>

const amount = (layer: Unranked, by: Measure): number =>
  by === 'loss' ? (layer.loss?.relative_difference ?? 0) : (layer[by] ?? 0)

/** Share of the other layers below this one, those equal to it counting half. */
function shareBelow(layers: readonly Unranked[], layer: Unranked, by: Measure): number {
  const own = amount(layer, by)
  const below = layers.reduce(
    (sum, other) => sum + (amount(other, by) < own ? 1 : amount(other, by) === own ? 0.5 : 0),
    0,
  )
  return layers.length > 1 ? (below - 0.5) / (layers.length - 1) : 1
}

/** Layers with score and rank, most sensitive first; of equal ones the earlier. */
export function rank(layers: readonly Unranked[], by: Measure | 'score'): LayerSensitivity[] {
  const scored = layers.map(layer => ({
    ...layer,
    score: measures.reduce((sum, what) => sum + shareBelow(layers, layer, what), 0) / measures.length,
  }))
  const order = (layer: (typeof scored)[number]) => (by === 'score' ? layer.score : amount(layer, by))
  return scored.sort((a, b) => order(b) - order(a)).map((layer, i) => ({ ...layer, rank: i + 1 }))
}

function lastBlocks(layers: readonly LayerSensitivity[], blocks: number): LastBlocks {
  const isLast = matcher(sensitiveInBf16.where, { blocks })
  const last = layers.filter(({ block, linear }) => isLast({ block, name: linear }))
  const among = (sorted: readonly Unranked[]) =>
    sorted.slice(0, last.length).filter(({ linear }) => last.some(layer => layer.linear === linear)).length
  const by = measures.map(what => [what, among(rank(layers, what))])
  return {
    blocks: new Set(last.map(({ block }) => block)).size,
    of_blocks: blocks,
    linears: last.length,
    among_most_sensitive: among(layers),
    expected: last.length ** 2 / layers.length,
    by: Object.fromEntries(by) as Record<Measure, number>,
  }
}

/** @throws UserError if a layer that the recipe keeps in high precision cannot be quantised as the others are. */
export function sensitivity(probe: Probe, options: SensitivityOptions): Sensitivity {
  const { layers, work, model, passes } = probe
  const { sites, plain } = layers
  const { draws, by, tokens, ...about } = options
  const everywhere = allQuantised(layers)
  const make = (name: string, resolved: readonly ResolvedRecipe[]): Recipe => asRecipe(name, layers, resolved)
  const all = make('quantised everywhere', everywhere)
  try {
    checkModel(model.config, all, 1, tokens)
  } catch (error) {
    if (!(error instanceof RecipeError)) throw error
    throw new UserError(`${options.run} cannot be ranked with all of its layers quantised: ${error.message}`)
  }
  const wgrad = make('wgrad alone', everywhere.map(alone('wgrad', plain)))
  const gradients = 1 + probe.drawsOf(wgrad, draws) + draws
  work.total = gradients * passes.gradient + (sites.length + 1) * passes.losses

  work.begin('gradients')
  const reference = probe.gradient(unquantised(layers).recipe)
  const products = probe.gradientErrors(wgrad, draws, reference).linears
  const operands = new OperandErrors()
  for (let draw = 0; draw < draws; draw++)
    probe.gradient(all, draw, made => {
      for (let look = 0; look < looks; look++)
        operands.add(made.linear, made.role, measure(made, looks * draw + look).snr_db)
    })

  work.begin('all layers')
  const quantised = probe.losses(all)
  const found = sites.map(({ name: linear, block }, i): Unranked => {
    work.begin(linear)
    const others = everywhere.map((layer, j) => (i === j ? plainLayer(plain) : layer))
    const difference = compareLosses(quantised, probe.losses(make(`all but ${linear}`, others)))
    return {
      linear,
      block,
      parameters: model.linears[i]!.weight.shape.reduce((product, size) => product * size, 1),
      weights: operands.of(linear, 'weights'),
      activations: operands.of(linear, 'activations'),
      gradients: operands.of(linear, 'gradients'),
      wgrad: quantisesGemm(everywhere[i]!, 'wgrad') ? products[i]!.error : null,
      loss: difference ?? null,
      high_in_run: !quantises(layers.resolved[i]!),
    }
  })
  const ranked = rank(found, by)
  return {
    format: 1,
    ...about,
    by,
    validation: { batches: probe.sizes.batches, tokens: quantised.tokens, loss: quantised.loss },
    draws,
    confidence,
    layers: ranked,
    last_blocks: lastBlocks(ranked, layers.depth.blocks),
  }
}
