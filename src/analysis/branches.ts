import type { Recipe } from '../recipes/recipe.ts'
import type { Checkpoint } from '../run/checkpoint.ts'
import { diagnose } from '../train/guards.ts'
import type { Trainer } from '../train/trainer.ts'
import { type Losses, passesOfGradient, type Work } from './probe.ts'

/** A few steps of training from a checkpoint, in memory: nothing is written. */
export interface Branch {
  /** Training losses, one for each step, nats per token. */
  readonly losses: readonly number[]
  /** Held-out losses after the last step; undefined if the branch diverged. */
  readonly validation: Losses | undefined
  readonly diverged: { readonly step: number; readonly reason: string } | undefined
}

/** What branches need that only the command line can open. */
export interface Branching {
  readonly steps: number
  readonly checkpoint: Checkpoint
  /** Opens a trainer in a recipe, hands it to `body` and gives its memory back. */
  open<T>(recipe: Recipe, body: (trainer: Trainer, validate: () => Losses) => T): Promise<T>
}

/** Trains from the checkpoint under a recipe, on the batches and with the learning rates that the run would have had. */
export const branch = ({ steps, checkpoint, open }: Branching, recipe: Recipe, work: Work): Promise<Branch> =>
  open(recipe, (trainer, validate) => {
    const { data } = trainer.config
    const passes = (passesOfGradient * data.batch) / data.micro_batch
    const first = checkpoint.state.step
    const losses: number[] = []
    trainer.restore(checkpoint)
    for (let step = first; step < first + steps; step++) {
      const result = trainer.step(step)
      const problem = diagnose(result, () => trainer.optimizer.nonFiniteWeights())
      if (problem) return { losses, validation: undefined, diverged: { step: step + 1, reason: problem.reason } }
      losses.push(result.loss)
      work.add(passes)
    }
    return { losses, validation: validate(), diverged: undefined }
  })
