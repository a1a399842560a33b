import type { Arm, Comparison } from '../compare/comparison.ts'
import type { Pair } from '../compare/pairs.ts'
import { formats } from '../formats/formats.ts'
import type { Operand } from '../recipes/recipe.ts'
import { recipes } from '../recipes/recipes.ts'

/**
 * What a comparison says, in words: does training in 4 bits hold?
 *
 * Words follow from the statistics of comparison.json and one yardstick: 1.5 %, by which the paper's 12B in NVFP4 ends above its FP8
 * baseline (arXiv 2509.25149, section 3; docs/numerics.md, "Training hyper-parameters and ablations"). A resolved loss up to that is a small price,
 * up to three times that a price, beyond that training does not hold. What is not resolved holds if the whole interval is
 * within the yardstick; otherwise it is not decided.
 */

export const yardstick = 0.015
const limit = 3 * yardstick

export interface Verdict {
  /** One sentence. */
  readonly headline: string
  /** A sentence or two for each recipe but the baseline. */
  readonly sentences: readonly string[]
}

const isFourBit = (operand: Operand): boolean =>
  typeof operand === 'object' && formats[operand.format].element.bits === 4

/** Whether a recipe quantises any operand to 4 bits. */
export function usesFourBits(name: string): boolean {
  const rules = Object.hasOwn(recipes, name) ? recipes[name]!.rules : []
  return rules.some(({ use }) => Object.values(use).some(({ a, b }) => isFourBit(a) || isFourBit(b)))
}

/** A share without its sign, as `1.43 %`. */
const size = (share: number, digits = 2): string => `${Math.abs(100 * share).toFixed(digits)} %`
const seedsText = (count: number): string => (count === 1 ? 'one seed' : `${count} seeds`)
const side = (difference: number): string => (difference < 0 ? 'above' : 'below')

function divergence(recipe: string, arms: readonly Arm[]): string | undefined {
  const own = arms.filter(arm => arm.recipe === recipe)
  const lost = own.filter(({ diverged }) => diverged)
  if (lost.length === 0) return undefined
  const first = Math.min(...lost.map(({ diverged }) => diverged!.step))
  if (own.length === 1) return `${recipe} diverged at step ${first}`
  return `${recipe} diverged ${lost.length === own.length ? `with all ${own.length} seeds` : `with ${lost.length} of ${own.length} seeds`}, first at step ${first}`
}

/** `1.80 to 2.87 %`, or around zero `0.41 % above to 1.20 % below`. */
function intervalText([low, high]: readonly [number, number]): string {
  if (low < 0 && high > 0) return `${size(low)} above to ${size(high)} below`
  const ends = [low, high].map(Math.abs).sort((a, b) => a - b)
  return `${(100 * ends[0]!).toFixed(2)} to ${size(ends[1]!)}`
}

function sentencesOf(pair: Pair, { arms, confidence, baseline }: Comparison): string {
  const { recipe, relative_difference: difference, interval, resolved, seeds, extra_tokens: extra } = pair
  const lost = divergence(recipe, arms)
  if (difference === null) return `${lost ?? `${recipe} has no run to compare with ${baseline} yet`}.`
  const ends = `${recipe} ends ${size(difference)} ${side(difference)} ${baseline} in loss`
  const known = interval
    ? ` (${100 * confidence} % interval: ${intervalText(interval)}; ${seedsText(seeds.length)}): ${resolved ? 'resolved' : 'not resolved'}.`
    : ', with one seed and therefore without an interval.'
  const heldOut = pair.validation
    ? ` On held-out text it ends ${size(pair.validation.mean)} ${side(pair.validation.mean)}${pair.validation.interval ? ` (${intervalText(pair.validation.interval)}): ${pair.validation.resolved ? 'resolved' : 'not resolved'}` : ''}.`
    : ''
  const more =
    extra?.resolved && extra.mean > 0
      ? ` For the same loss it needs ${(100 * extra.mean).toFixed(0)} % more tokens.`
      : pair.seeds_to_resolve !== null && !resolved
        ? ` ${pair.seeds_to_resolve} seeds would resolve a difference of this size and spread.`
        : ''
  return `${ends}${known}${heldOut}${more}${lost ? ` It ${lost.slice(recipe.length + 1)}.` : ''}`
}

function judge(subject: string, pair: Pair, { arms, baseline }: Comparison): string {
  const { recipe, relative_difference: difference, interval, resolved, seeds } = pair
  const lost = divergence(recipe, arms)
  if (lost) return `${subject} does not hold here: ${lost}.`
  if (difference === null) return `Not answered yet: ${recipe} and ${baseline} have no finished run in common.`
  const ends = `${recipe} ends ${size(difference, 1)} ${side(difference)} ${baseline}`
  if (!interval) return `One seed gives no verdict: ${ends}.`
  if (resolved) {
    if (difference > 0) return `${subject} holds here: ${ends}.`
    if (-difference <= yardstick) return `${subject} holds here, at a small price: ${ends}.`
    if (-difference <= limit) return `${subject} has a price here: ${ends}.`
    return `${subject} does not hold here: ${ends}.`
  }
  if (-interval[0] <= yardstick)
    return `${subject} holds here, as far as ${seedsText(seeds.length)} can tell: ${recipe} is at worst ${size(interval[0], 1)} above ${baseline}.`
  return `Not decided: with ${seedsText(seeds.length)} ${recipe} may end anywhere from ${size(interval[0], 1)} above ${baseline} to ${size(interval[1], 1)} below.`
}

function alone({ arms: [arm], tokens }: Comparison): Verdict {
  const { recipe, status, step, steps, loss, validation_loss: validation, diverged } = arm!
  const losses = [
    ...(loss === null ? [] : [`the smoothed training loss was ${loss.toFixed(4)} nats per token`]),
    ...(validation === null ? [] : [`the validation loss ${validation.toFixed(4)}`]),
  ].join(' and ')
  const reached = losses ? [`At step ${step.toLocaleString('en-US')} ${losses}.`] : []
  const compared = 'What the recipe costs shows beside a baseline: train both with halfbyte compare.'
  const headline = diverged
    ? `Training in ${recipe} diverged at step ${diverged.step}.`
    : status === 'finished'
      ? `Training in ${recipe} ran to its end: ${steps.toLocaleString('en-US')} steps${tokens > 0 ? `, ${tokens.toLocaleString('en-US')} tokens` : ''}.`
      : `Training in ${recipe} is at step ${step.toLocaleString('en-US')} of ${steps.toLocaleString('en-US')}.`
  return { headline, sentences: [...reached, compared] }
}

export function verdictOf(comparison: Comparison): Verdict {
  const { pairs, arms } = comparison
  if (pairs.length === 0) {
    if (arms.length === 1) return alone(comparison)
    const finished = arms.filter(({ status }) => status === 'finished').length
    return { headline: `${finished} of ${arms.length} runs in ${comparison.baseline} are finished.`, sentences: [] }
  }
  // The first one asked for, and not the best one found: the best of many is better than it would be a second time.
  const fourBit = pairs.find(({ recipe }) => usesFourBits(recipe))
  const first = fourBit ?? pairs[0]!
  const headline = judge(fourBit ? '4-bit training' : `Training in ${first.recipe}`, first, comparison)
  const others = pairs.filter(pair => pair !== first)
  return { headline, sentences: [first, ...others].map(pair => sentencesOf(pair, comparison)) }
}
