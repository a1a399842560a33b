import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import { Model } from '../model/model.ts'
import type { Recipe } from '../recipes/recipe.ts'
import type { Checkpoint } from '../run/checkpoint.ts'
import type { Progress } from '../run/files.ts'
import { restoreTensors, toBackend } from '../run/restore.ts'
import type { Backend } from '../tensor/backend.ts'

/** The model of a run and its weights, without the text and the optimizer that training needs. */

export interface CreateOptions {
  /** What to compute in, if not the config's recipe under its rules. */
  readonly recipe?: Recipe
  /** Leaves the weights zero, for whoever restores or draws them at once. */
  readonly empty?: boolean
}

/** @throws Error if config and recipe do not fit together. */
export function createModel(
  config: RunConfig,
  backend: Backend,
  { recipe = recipeOf(config), empty }: CreateOptions = {},
): Model {
  const { model, seed, steps, data } = config
  const { sequence, micro_batch: microBatch } = data
  return new Model({ config: model, backend, recipe, seed, empty, steps, sequence, tokens: sequence * microBatch })
}

/**
 * The weights of a checkpoint, and the phase of the recipe that made them.
 * @param progress told of the bytes that are read.
 * @throws UserError if the checkpoint holds other tensors than the model has.
 */
export function restoreWeights(model: Model, { files, state }: Checkpoint, progress?: Progress): void {
  const tensors = model.parameters.all.map(({ name, value }) => toBackend(name, value))
  const what = `reading the weights of step ${state.step}`
  restoreTensors(files.model!, tensors, (...told) => progress?.(...told, what))
  model.weightsChanged()
  model.beginStep(Math.max(0, state.step - 1))
}
