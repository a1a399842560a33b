import type { Role } from '../ops/linear.ts'
import type { StepResult } from './trainer.ts'

/** Why training must not go on, and where it went wrong: FP4 conversion and clipping would both hide it from what follows. */

/** A tensor as an event names it: `layers.1.mixer.up_proj`, `weight gradient`. */
export interface Place {
  readonly layer: string
  readonly tensor: string
}

export interface Problem {
  readonly event: 'non_finite' | 'zero_gradient'
  /** What happened, and in which tensor it shows first. */
  readonly reason: string
  /** Where it shows, the likeliest origin first; empty only if nothing can be named. */
  readonly places: readonly Place[]
}

/** What people call the operands that a linear layer quantises. */
const operandNames: Readonly<Record<Role, string>> = {
  xRows: 'input',
  xColumns: 'input',
  wRows: 'weight',
  wColumns: 'weight',
  dyRows: 'output gradient',
  dyColumns: 'output gradient',
}
export const operandPlace = (layer: string, role: Role): Place => ({ layer, tensor: operandNames[role] })

/** Where a parameter is: `backbone.layers.1.mixer.up_proj.weight` is the `weight` of `layers.1.mixer.up_proj`. */
export function parameterPlace(name: string, suffix = ''): Place {
  const dot = name.lastIndexOf('.')
  return { layer: name.slice(0, dot).replace(/^backbone\./, ''), tensor: name.slice(dot + 1) + suffix }
}

/** `the weight of layers.1.mixer.up_proj`, and how many more. */
function placesText(places: readonly Place[]): string {
  const different = new Set(places.map(({ layer, tensor }) => `the ${tensor} of ${layer}`))
  const [first, ...others] = different
  return others.length === 0 ? first! : `${first} (and in ${others.length} more)`
}

function nonFinite(what: string, places: readonly Place[]): Problem {
  const where = places.length > 0 ? `, seen first in ${placesText(places)}` : ''
  return { event: 'non_finite', reason: what + where, places }
}

/** Weights that hold a value that is not finite, by name: asked only where something is wrong, and before a checkpoint. */
export const weightProblem = (weights: readonly string[]): Problem | undefined =>
  weights.length === 0
    ? undefined
    : nonFinite(
        'a weight is not finite',
        weights.map(name => parameterPlace(name)),
      )

export const validationProblem = (loss: number, nonFiniteWeights: () => readonly string[]): Problem | undefined =>
  Number.isFinite(loss)
    ? undefined
    : nonFinite(
        `the validation loss is ${loss}`,
        nonFiniteWeights().map(name => parameterPlace(name)),
      )

/**
 * What is wrong with a step, or undefined. What is not finite is traced to a weight, else to the first operand that was quantised, else to
 * the gradient that comes first in the backward pass; so is a gradient that is lost.
 */
export function diagnose(result: StepResult, nonFiniteWeights: () => readonly string[]): Problem | undefined {
  const { loss, finite, nonFinite: gradients, nonFiniteOperands: operands, zero, largest } = result
  if (!Number.isFinite(loss) || !finite || operands.length > 0) {
    const places = [
      ...nonFiniteWeights().map(name => parameterPlace(name)),
      ...operands,
      ...gradients.toReversed().map(name => parameterPlace(name, ' gradient')),
    ]
    if (!Number.isFinite(loss)) return nonFinite(`the loss is ${loss}`, places)
    if (places.length > 0) return nonFinite('a value is not finite', places)
    return nonFinite('the norm of the gradient is too large for FP32', [parameterPlace(largest.name, ' gradient')])
  }
  if (zero.length === 0) return undefined
  const places = zero.toReversed().map(name => parameterPlace(name, ' gradient'))
  return { event: 'zero_gradient', reason: `all values are zero in ${placesText(places)}`, places }
}
