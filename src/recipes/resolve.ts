import { RecipeError } from './errors.ts'
import type { Gemm, LinearRecipe, Operand, Quantized, Recipe, Rule, Step } from './recipe.ts'

/**
 * From a recipe to what each linear layer does at one step: rules are applied in order to every layer, the last word wins.
 */

/** A linear layer as rules see it. */
export interface LinearSite {
  /** Such as `layers.3.mixer.in_proj`. */
  readonly name: string
  /** Index of the block that it belongs to. */
  readonly block: number
}

export interface Depth {
  readonly blocks: number
  /** How many first and last blocks the model asks to keep in BF16; absent: the recipe decides. */
  readonly sensitive?: readonly [first: number, last: number] | undefined
}

/** A linear recipe and the images that `forward` operands stand for. */
export interface ResolvedRecipe extends LinearRecipe {
  readonly forward: { readonly x?: Quantized | undefined; readonly w?: Quantized | undefined }
}

export const isQuantized = (operand: Operand): operand is Quantized => typeof operand === 'object'

/** The first step at or after which a `from` or `to` holds. */
export const stepOf = (step: Step, steps: number): number =>
  typeof step === 'number' ? step : Math.round(step.share * steps)

/** A share of the depth is at least one block. */
const count = (n: number, blocks: number): number =>
  n > 0 && n < 1 ? Math.max(1, Math.round(n * blocks)) : Math.min(n, blocks)

const index = (n: number, blocks: number): number =>
  n < 0 ? Math.max(0, blocks - count(-n, blocks)) : count(n, blocks)

/** Which linear layers a rule is for. */
export function matcher(where: Rule['where'], depth: Depth): (site: LinearSite) => boolean {
  if (where === 'all') return () => true
  if ('name' in where) {
    const pattern = where.name.split('*').map(part => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
    const expression = new RegExp(`^${pattern.join('.*')}$`)
    return site => expression.test(site.name)
  }
  const { blocks } = depth
  if ('blocks' in where) {
    const start = index(where.blocks[0], blocks)
    const end = where.blocks[1] === undefined ? blocks : index(where.blocks[1], blocks)
    return site => site.block >= start && site.block < end
  }
  const [first, last] = (depth.sensitive ?? where.sensitive).map(n => count(n, blocks)) as [number, number]
  return site => site.block < first || site.block >= blocks - last
}

/**
 * The linear recipe of every site at `step` of `steps`. Sites that end up with the same rules share one object.
 * @throws RecipeError naming a layer for which the recipe leaves a GEMM open, or a `forward` operand that stands for nothing.
 */
export function resolveRecipe(
  recipe: Recipe,
  sites: readonly LinearSite[],
  depth: Depth,
  step: number,
  steps: number,
): ResolvedRecipe[] {
  const active = recipe.rules
    .filter(({ from, to }) => step >= stepOf(from ?? 0, steps) && (to === undefined || step < stepOf(to, steps)))
    .map(rule => ({ matches: matcher(rule.where, depth), use: rule.use }))
  const shared = new Map<string, ResolvedRecipe>()
  return sites.map(site => {
    const applied = active.map((rule, i) => (rule.matches(site) ? i : -1)).filter(i => i >= 0)
    const key = applied.join()
    const known = shared.get(key)
    if (known) return known
    const resolved = combine(
      recipe.name,
      site,
      applied.map(i => active[i]!.use),
    )
    shared.set(key, resolved)
    return resolved
  })
}

function combine(recipe: string, site: LinearSite, uses: readonly Partial<LinearRecipe>[]): ResolvedRecipe {
  const gemms: Partial<Record<keyof LinearRecipe, Gemm>> = {}
  const forward: { x?: Quantized; w?: Quantized } = {}
  for (const use of uses) {
    Object.assign(gemms, use)
    if (use.fprop && isQuantized(use.fprop.a)) forward.x = use.fprop.a
    if (use.fprop && isQuantized(use.fprop.b)) forward.w = use.fprop.b
  }
  const { fprop, dgrad, wgrad } = gemms
  if (!fprop || !dgrad || !wgrad)
    throw new RecipeError(
      `recipe ${recipe}: no rule says how ${site.name} does ${!fprop ? 'fprop' : !dgrad ? 'dgrad' : 'wgrad'}`,
    )
  const resolved = { fprop, dgrad, wgrad, forward }
  check(recipe, site, resolved)
  return resolved
}

const readsForward = (operand: Operand): boolean =>
  operand === 'forward' || (isQuantized(operand) && operand.of === 'forward')

function check(recipe: string, site: LinearSite, { fprop, dgrad, wgrad, forward }: ResolvedRecipe): void {
  const complain = (what: string): never => {
    throw new RecipeError(`recipe ${recipe}: ${site.name}: ${what}`)
  }
  for (const operand of [fprop.a, fprop.b, dgrad.a, wgrad.a])
    if (readsForward(operand))
      complain('only the weights of dgrad and the activations of wgrad can be those of forward')
  for (const operand of [fprop.a, dgrad.a, wgrad.a, wgrad.b])
    if (isQuantized(operand) && operand.source) complain('only weights can be quantised from FP32 instead of from BF16')
  for (const [name, gemm] of Object.entries({ fprop, dgrad, wgrad }))
    if (gemm.hadamard && !(isQuantized(gemm.a) && isQuantized(gemm.b)))
      complain(`${name} is rotated, so both of its operands must be quantised for it`)
  const reused = [
    { gemm: dgrad, image: forward.w, name: 'dgrad', tensor: 'weights' },
    { gemm: wgrad, image: forward.x, name: 'wgrad', tensor: 'activations' },
  ]
  for (const { gemm, image, name, tensor } of reused) {
    if (!readsForward(gemm.b)) continue
    if (!image) complain(`${name} wants the ${tensor} of forward, but no rule quantises them there`)
    else if (fprop.hadamard) complain(`${name} wants the ${tensor} of forward, but those are rotated`)
    else if (gemm.b === 'forward' && isQuantized(gemm.a) && !image.square)
      complain(`${name} wants the codes of the ${tensor} of forward, but their blocks are not square`)
  }
}

/** The steps at which anything changes, the first being 0. */
export function phases(recipe: Recipe, steps: number): number[] {
  const changes = new Set([0])
  for (const { from, to } of recipe.rules)
    for (const bound of [from, to]) {
      const step = bound === undefined ? 0 : stepOf(bound, steps)
      if (step > 0 && step < steps) changes.add(step)
    }
  return [...changes].sort((a, b) => a - b)
}
