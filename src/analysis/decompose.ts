import { confidence } from '../compare/statistics.ts'
import { checkModel } from '../model/model.ts'
import { RecipeError } from '../recipes/errors.ts'
import type { Recipe } from '../recipes/recipe.ts'
import { type Branch, type Branching, branch } from './branches.ts'
import type { GradientError } from './gradients.ts'
import { compareLosses, type LossDifference, type Losses, type Probe, type Probed } from './probe.ts'
import { unquantised, type Variant, variantsOf } from './variants.ts'

/**
 * What each product and each technique of a recipe costs, from a checkpoint: the forward pass by losses on the same held-out batches, the
 * backward pass by the error of the gradient, both by a few steps of training on the same batches.
 */

export interface GradientFigures extends GradientError {
  readonly draws: number
  readonly layers: readonly ({ readonly linear: string } & GradientError)[]
}

/** What lies between a row and the first, in which nothing is quantised, and between it and the recipe; absent in those two rows. */
interface Differences extends Partial<LossDifference> {
  readonly against_recipe?: LossDifference
}

export interface BranchFigures extends Differences {
  /** Mean training loss over the last fifth of the steps, nats per token. */
  readonly loss: number | null
  readonly validation_loss: number | null
  /** Training losses, one for each step. */
  readonly losses: readonly number[]
  readonly diverged: { readonly step: number; readonly reason: string } | null
}

/** A way of computing, and what it costs against the first row, in which nothing is quantised. */
export interface DecompositionRow extends Differences {
  readonly name: string
  /** Why the model cannot be computed in it; then nothing is measured. */
  readonly left_out: string | null
  /** Nats per token on the held-out batches; null if not finite. */
  readonly validation_loss: number | null
  /** What dgrad and wgrad do to the gradient, fprop being unquantised; null where neither is quantised. */
  readonly gradient: GradientFigures | null
  /** What all products together do to it, of the recipe itself and of fprop alone. */
  readonly gradient_with_fprop: GradientFigures | null
  readonly branch: BranchFigures | null
}

export interface Decomposition {
  readonly format: 1
  readonly run: string
  readonly recipe: string
  /** Of the checkpoint. */
  readonly step: number
  readonly parameters: number
  readonly validation: { readonly batches: number; readonly tokens: number }
  readonly gradient: { readonly tokens: number; readonly draws: number }
  readonly branches: { readonly steps: number } | null
  readonly confidence: number
  readonly rows: readonly DecompositionRow[]
}

export interface DecomposeOptions extends Probed {
  /** Of the random decisions, for each recipe that makes any. */
  readonly draws: number
  readonly branching?: Branching | undefined
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)

/** @param recipe the losses of the recipe's row; undefined for that row itself. */
function differences(found: Losses, reference: Losses, recipe: Losses | undefined): Differences {
  const against = recipe && compareLosses(recipe, found)
  return { ...compareLosses(reference, found), ...(against && { against_recipe: against }) }
}

function branchFigures({ losses, validation, diverged }: Branch, reference?: Branch, recipe?: Branch): BranchFigures {
  const last = losses.slice(-Math.max(1, Math.ceil(losses.length / 5)))
  const loss = diverged ? null : last.reduce((sum, value) => sum + value, 0) / last.length
  return {
    loss,
    validation_loss: validation ? finite(validation.loss) : null,
    ...(validation && reference?.validation && differences(validation, reference.validation, recipe?.validation)),
    losses,
    diverged: diverged ?? null,
  }
}

interface Row extends Variant {
  readonly leftOut: string | null
  /** Whether to measure the gradient with fprop quantised too. */
  readonly whole: boolean
}

/** Rows with what keeps the model from being computed so, if anything does. */
function rowsOf(probe: Probe, recipe: string, tokens: number): Row[] {
  const { config } = probe.model
  return [unquantised(probe.layers), ...variantsOf(recipe, probe.layers)].map(variant => {
    const whole = variant.forward && (variant.name === recipe || variant.backward === undefined)
    try {
      checkModel(config, variant.recipe, 1, tokens)
      return { ...variant, whole, leftOut: null }
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error
      return { ...variant, whole, leftOut: error.message }
    }
  })
}

/** Losses of a row, and its branch where branches are asked for. */
async function lossesOf(probe: Probe, { name, recipe }: Row, branching: Branching | undefined) {
  probe.work.begin(name)
  const losses = probe.losses(recipe)
  return { losses, branch: branching && (await branch(branching, recipe, probe.work)) }
}

const gradientFigures = (probe: Probe, recipe: Recipe, draws: number, reference: Float32Array): GradientFigures => {
  const { whole, linears } = probe.gradientErrors(recipe, draws, reference)
  const layers = linears.map((error, i) => ({ linear: probe.model.linears[i]!.name, ...error }))
  return { ...whole, draws: probe.drawsOf(recipe, draws), layers }
}

/** Recipes whose gradients a row is judged by. */
const gradientRecipes = ({ backward, recipe, whole }: Row): Recipe[] => [
  ...(backward ? [backward] : []),
  ...(whole ? [recipe] : []),
]

export async function decompose(probe: Probe, options: DecomposeOptions): Promise<Decomposition> {
  const { work, model, passes } = probe
  const { run, recipe, step, draws, branching } = options
  const [first, ...others] = rowsOf(probe, recipe, options.tokens) as [Row, ...Row[]]
  const possible = others.filter(({ leftOut }) => leftOut === null)
  const gradients = possible.flatMap(gradientRecipes).reduce((sum, each) => sum + probe.drawsOf(each, draws), 1)
  const perRow = passes.losses + (branching ? branching.steps * passes.gradient + passes.losses : 0)
  work.total = (possible.length + 1) * perRow + gradients * passes.gradient

  const reference = await lossesOf(probe, first, branching)
  const gradient = probe.gradient(first.recipe)
  const nothing = { validation_loss: null, gradient: null, gradient_with_fprop: null, branch: null }
  const rows: DecompositionRow[] = [
    {
      ...nothing,
      name: first.name,
      left_out: null,
      validation_loss: finite(reference.losses.loss),
      branch: reference.branch ? branchFigures(reference.branch) : null,
    },
  ]
  let own: Awaited<ReturnType<typeof lossesOf>> | undefined
  for (const row of others) {
    const { name, leftOut, backward, whole } = row
    if (leftOut !== null) {
      rows.push({ ...nothing, name, left_out: leftOut })
      continue
    }
    const found = await lossesOf(probe, row, branching)
    rows.push({
      name,
      left_out: null,
      validation_loss: finite(found.losses.loss),
      ...differences(found.losses, reference.losses, own?.losses),
      gradient: backward ? gradientFigures(probe, backward, draws, gradient) : null,
      gradient_with_fprop: whole ? gradientFigures(probe, row.recipe, draws, gradient) : null,
      branch: found.branch ? branchFigures(found.branch, reference.branch, own?.branch) : null,
    })
    // The first of them is the recipe itself.
    own ??= found
  }
  const { gradientTokens, batches } = probe.sizes
  return {
    format: 1,
    run,
    recipe,
    step,
    parameters: model.parameters.count,
    validation: { batches, tokens: reference.losses.tokens },
    gradient: { tokens: gradientTokens, draws },
    branches: branching ? { steps: branching.steps } : null,
    confidence,
    rows,
  }
}
