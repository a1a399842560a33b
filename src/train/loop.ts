import { setImmediate } from 'node:timers/promises'
import { UserError } from '../config/errors.ts'
import type { Progress } from '../run/files.ts'
import { readMetrics } from '../run/read.ts'
import { isTraining } from '../run/records.ts'
import { RouteLog } from '../run/routes.ts'
import type { Run } from '../run/run.ts'
import { diagnose, type Problem, parameterPlace, validationProblem, weightProblem } from './guards.ts'
import { isSampled } from './numerics.ts'
import { SpikeDetector } from './spikes.ts'
import type { StepResult, Trainer, ValidationResult } from './trainer.ts'

/** What a run shows of itself while it goes; all optional. */
export interface Observer {
  step?(progress: { step: number; loss: number; tokensPerSecond: number; lr: number; gradNorm: number }): void
  validation?(step: number, result: ValidationResult): void
  event?(step: number, text: string): void
  /** Told of long work beside the steps: initial weights, and checkpoints that are read or written. */
  readonly work?: Progress
  /** A step at which the observer may ask to stop: its result is waited for before the next begins. */
  readonly until?: number
}

/** A step that was begun and whose result has not been asked for. */
interface Begun {
  /** Counted from 1. */
  readonly step: number
  readonly started: number
  readonly result: () => StepResult
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
 * Gives the event loop a turn after each step, so that signals are heard. Where the backend computes on its own, the next step begins before
 * the result of the last is asked for, unless something must be done between them.
 * @throws UserError if a number is not finite or a gradient is zero throughout: an event names it, and no checkpoint is written.
 */
export async function train(run: Run, trainer: Trainer, observer: Observer = {}, stop?: AbortSignal): Promise<Outcome> {
  try {
    return await trainOn(run, trainer, observer, stop)
  } catch (error) {
    // A GPU that is gone or has no memory left says nothing of the run.
    if (error instanceof Error && !(error instanceof UserError)) error.message += `; ${savedText(run)}`
    throw error
  }
}

const savedText = ({ savedStep }: Run): string =>
  savedStep === undefined ? 'no checkpoint had been written' : `the checkpoint of step ${savedStep} is untouched`

async function trainOn(run: Run, trainer: Trainer, observer: Observer, stop?: AbortSignal): Promise<Outcome> {
  const { config } = trainer
  const progress = (done: number, total: number) => observer.work?.(done, total, 'initial weights')
  if (run.checkpoint) trainer.restore(run.checkpoint, observer.work)
  else await trainer.initialise({ progress, signal: stop })
  const spikes = new SpikeDetector()
  for (const record of readMetrics(run.directory)) if (isTraining(record)) spikes.observe(record.loss)
  const { name, description } = trainer.model.backend
  const routes = new RouteLog(run.directory, { backend: name, ...description }, run.startStep)
  const validateEvery = config.validation.every
  let validation: ValidationResult | undefined
  let loss: number | undefined
  let step = run.startStep
  let seconds = 0

  const stopFor = (problem: Problem, at: number): never => {
    const { event, reason, places } = problem
    run.event({ step: at, event, ...places[0], reason, places })
    throw new UserError(`training stopped at step ${at}: ${reason}; ${savedText(run)}`)
  }
  const save = () => {
    const problem = weightProblem(trainer.optimizer.nonFiniteWeights())
    if (problem) stopFor(problem, step)
    const state = { step, seed: config.seed, tokens: step * trainer.tokensPerStep }
    run.save(trainer.files(), state, { progress: observer.work })
  }
  const due = (every: number, at: number) => (every > 0 && at % every === 0) || at === config.steps

  let settled = performance.now()
  /** Waits for a step and records it. */
  const settle = (begun: Begun) => {
    const result = begun.result()
    const now = performance.now()
    const elapsed = (now - Math.max(begun.started, settled)) / 1000
    settled = now
    seconds += elapsed
    const problem = diagnose(result, () => trainer.optimizer.nonFiniteWeights())
    if (problem) stopFor(problem, begun.step)
    if (result.routes) routes.check(begun.step, result.phase, result.routes)
    step = begun.step
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
  }

  let last: Begun | undefined
  let begun = step
  while (begun < config.steps && !stop?.aborted) {
    const sampled = isSampled(begun + 1, config.steps)
    // The host works on a sampled step itself: beside another, neither's time would be known.
    if (sampled && last) {
      settle(last)
      last = undefined
    }
    const started = performance.now()
    const next = { step: begun + 1, started, result: trainer.begin(begun, sampled) }
    if (last) settle(last)
    last = next
    begun++
    const validates = due(validateEvery, begun)
    const saves = due(config.checkpoint.every, begun)
    if (validates || saves || begun === observer.until || sampled || !trainer.overlaps) {
      settle(last)
      last = undefined
    }
    if (validates) {
      validation = trainer.validate()
      const problem = validationProblem(validation.loss, () => trainer.optimizer.nonFiniteWeights())
      if (problem) stopFor(problem, step)
      run.metrics({ step, validation_loss: validation.loss })
      observer.validation?.(step, validation)
    }
    if (saves) save()
    await setImmediate()
  }
  if (last) settle(last)

  const status = step < config.steps ? 'interrupted' : 'finished'
  if (status === 'interrupted' && step > run.startStep) save()
  const tokensPerSecond = seconds > 0 ? ((step - run.startStep) * trainer.tokensPerStep) / seconds : 0
  return { status, step, loss, validation, tokensPerSecond }
}
