import { setImmediate } from 'node:timers/promises'
import { UserError } from '../config/errors.ts'
import { readMetrics } from '../run/read.ts'
import { isTraining } from '../run/records.ts'
import type { Run } from '../run/run.ts'
import { diagnose, type Problem, parameterPlace, validationProblem, weightProblem } from './guards.ts'
import { isSampled } from './numerics.ts'
import { SpikeDetector } from './spikes.ts'
import type { Trainer, ValidationResult } from './trainer.ts'

/** What a run shows of itself while it goes; all optional. */
export interface Observer {
  step?(progress: { step: number; loss: number; tokensPerSecond: number; lr: number; gradNorm: number }): void
  validation?(step: number, result: ValidationResult): void
  event?(step: number, text: string): void
}

export interface Outcome {
  /** `interrupted`: asked to stop; all is saved. */
  readonly status: 'finished' | 'interrupted'
  /** Steps done. */
  readonly step: number
  /** Of the last step; undefined if none was made. */
  readonly loss: number | undefined
  readonly validation: ValidationResult | undefined
  /** Over the steps made by this call. */
  readonly tokensPerSecond: number
}

/**
 * Trains from the run's last checkpoint to its last step, or until `stop` is aborted: then saves and returns.
 * Gives the event loop a turn after each step, so that signals are heard.
 * @throws UserError if a number is not finite or a gradient is zero throughout: an event names it, and no checkpoint is written.
 */
export async function train(run: Run, trainer: Trainer, observer: Observer = {}, stop?: AbortSignal): Promise<Outcome> {
  const { config } = trainer
  if (run.checkpoint) trainer.restore(run.checkpoint)
  const spikes = new SpikeDetector()
  for (const record of readMetrics(run.directory)) if (isTraining(record)) spikes.observe(record.loss)
  const validateEvery = config.validation.every
  let validation: ValidationResult | undefined
  let loss: number | undefined
  let step = run.startStep
  let seconds = 0

  const stopFor = (problem: Problem, at: number): never => {
    const { event, reason, places } = problem
    run.event({ step: at, event, ...places[0], reason, places })
    const left =
      run.savedStep === undefined
        ? 'no checkpoint had been written'
        : `the checkpoint of step ${run.savedStep} is untouched`
    throw new UserError(`training stopped at step ${at}: ${reason}; ${left}`)
  }
  const save = () => {
    const problem = weightProblem(trainer.optimizer.nonFiniteWeights())
    if (problem) stopFor(problem, step)
    run.save(trainer.files(), { step, seed: config.seed, tokens: step * trainer.tokensPerStep })
  }
  const due = (every: number) => every > 0 && step % every === 0

  while (step < config.steps && !stop?.aborted) {
    const started = performance.now()
    const result = trainer.step(step, isSampled(step + 1, config.steps))
    const elapsed = (performance.now() - started) / 1000
    seconds += elapsed
    const problem = diagnose(result, () => trainer.optimizer.nonFiniteWeights())
    if (problem) stopFor(problem, step + 1)
    step++
    loss = result.loss
    if (trainer.model.phases.includes(step) && step < config.steps) {
      run.event({ step, event: 'recipe_phase', recipe: config.recipe })
      observer.event?.(step, `the recipe ${config.recipe} enters its next phase`)
    }
    const tokensPerSecond = trainer.tokensPerStep / elapsed
    run.metrics({
      step,
      loss,
      tokens: step * trainer.tokensPerStep,
      lr: result.lr,
      grad_norm: result.norm,
      tokens_per_second: Math.round(tokensPerSecond),
    })
    for (const record of result.numerics) run.numerics({ step, ...record })
    observer.step?.({ step, loss, tokensPerSecond, lr: result.lr, gradNorm: result.norm })
    const deviations = spikes.observe(loss)
    if (deviations !== undefined) {
      const { layer, tensor } = parameterPlace(result.largest.name, ' gradient')
      const { norm } = result.largest
      run.event({ step, event: 'loss_spike', loss, deviations: Number(deviations.toFixed(1)), layer, tensor, norm })
      observer.event?.(
        step,
        `loss spike: ${loss.toFixed(3)}, ${deviations.toFixed(1)} deviations above the mean; the largest gradient, of norm ${norm.toPrecision(3)}, is the ${tensor} of ${layer}`,
      )
    }
    if (due(validateEvery) || step === config.steps) {
      validation = trainer.validate()
      const problem = validationProblem(validation.loss, () => trainer.optimizer.nonFiniteWeights())
      if (problem) stopFor(problem, step)
      run.metrics({ step, validation_loss: validation.loss })
      observer.validation?.(step, validation)
    }
    if (due(config.checkpoint.every) || step === config.steps) save()
    await setImmediate()
  }

  const status = step < config.steps ? 'interrupted' : 'finished'
  if (status === 'interrupted' && step > run.startStep) save()
  const tokensPerSecond = seconds > 0 ? ((step - run.startStep) * trainer.tokensPerStep) / seconds : 0
  return { status, step, loss, validation, tokensPerSecond }
}
