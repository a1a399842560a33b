import { estimate } from '../compare/statistics.ts'
import type { Corpus } from '../data/corpus.ts'
import { type Batch as HostBatch, Validation } from '../data/sampler.ts'
import type { Batch, Model } from '../model/model.ts'
import { linearShapes, parameterSpecs } from '../model/parameters.ts'
import type { Watched } from '../ops/linear.ts'
import type { Recipe } from '../recipes/recipe.ts'
import { type ResolvedRecipe, resolveRecipe } from '../recipes/resolve.ts'
import { persistentTensor, type Tensor } from '../tensor/tensor.ts'
import type { Trainer } from '../train/trainer.ts'
import { type GradientError, gradientErrors } from './gradients.ts'
import { isRandom, type Layers } from './variants.ts'

/** How much of a piece of work is done, in passes of a micro-batch through the model, and what is being done. */
export type Progress = (done: number, total: number, what: string) => void

/** A forward and backward pass takes about as long as three forward passes. */
export const passesOfGradient = 3

/** Counts passes and tells about them. */
export class Work {
  readonly #report: Progress
  #done = 0
  #what = ''
  total = 0

  constructor(report: Progress) {
    this.#report = report
  }

  begin(what: string): void {
    this.#what = what
    this.add(0)
  }

  add(passes: number): void {
    this.#done += passes
    this.#report(this.#done, this.total, this.#what)
  }
}

/** What is looked at: a run at one of its checkpoints. */
export interface Probed {
  readonly run: string
  readonly recipe: string
  readonly step: number
  /** Tokens of a micro-batch. */
  readonly tokens: number
}

/** Losses on the held-out batches, nats per token. */
export interface Losses {
  readonly loss: number
  readonly tokens: number
  /** Of each micro-batch. */
  readonly batches: readonly number[]
}

/** What lies between two losses on the same batches, relative to the reference: negative is worse (paper, section 3). */
export interface LossDifference {
  readonly relative_difference: number
  /** Confidence interval by Student's t over the micro-batches; null with one. */
  readonly interval: readonly [low: number, high: number] | null
  /** Whether the interval leaves out zero. */
  readonly resolved: boolean
}

/** Undefined where a loss is not finite. */
export function compareLosses(reference: Losses, other: Losses): LossDifference | undefined {
  if (!Number.isFinite(other.loss) || !Number.isFinite(reference.loss)) return undefined
  const found = estimate(reference.batches.map((loss, i) => (loss - other.batches[i]!) / reference.loss))!
  return {
    relative_difference: (reference.loss - other.loss) / reference.loss,
    interval: found.interval,
    resolved: found.resolved,
  }
}

/**
 * A model at a checkpoint, computing in any recipe without being trained: losses on the held-out batches, gradients on the batch that the
 * run's next step would take.
 */
export class Probe {
  readonly model: Model
  readonly work: Work
  /** What the linear layers do at the checkpoint. */
  readonly layers: Layers
  readonly #step: number
  readonly #validation: readonly Batch[]
  readonly #training: readonly Batch[]

  /**
   * @param trainer with the weights of the checkpoint, in the phase of its recipe that made them.
   * @param step steps done.
   * @param batches held-out micro-batches; fewer are taken where the text is short.
   */
  constructor({ model, config, sampler }: Trainer, corpus: Corpus, step: number, batches: number, work: Work) {
    const { model: shape, data } = config
    const options = { sequence: data.sequence, microBatch: data.micro_batch, boundaries: data.boundaries }
    const validation = new Validation(corpus.validation, corpus.tokenizer, batches, options)
    const upload = ({ tokens, targets, starts }: HostBatch): Batch => {
      const tensor = (data: Int32Array): Tensor => persistentTensor(model.backend, 'i32', [data.length]).write(data)
      return { tokens: tensor(tokens), targets: tensor(targets), starts: tensor(starts) }
    }
    this.model = model
    this.work = work
    this.#step = step
    this.#validation = Array.from({ length: validation.batches }, (_, i) => upload(validation.batch(i)))
    this.#training = Array.from({ length: data.batch / data.micro_batch }, (_, i) => upload(sampler.batch(step, i)))
    const { head } = model.recipe
    this.layers = {
      sites: linearShapes(parameterSpecs(shape)),
      depth: { blocks: shape.pattern.length, sensitive: shape.bf16_blocks },
      resolved: model.linears.map(({ recipe }) => recipe),
      plain: head ?? 'bf16',
    }
  }

  /** Passes of one call of `losses` and of one draw of a gradient. */
  get passes(): { readonly losses: number; readonly gradient: number } {
    return { losses: this.#validation.length, gradient: passesOfGradient * this.#training.length }
  }

  /** Held-out micro-batches, and tokens of the batch that gradients are of. */
  get sizes(): { readonly batches: number; readonly gradientTokens: number } {
    const tokens = this.#training.reduce((sum, batch) => sum + batch.tokens.size, 0)
    return { batches: this.#validation.length, gradientTokens: tokens }
  }

  losses(recipe: Recipe): Losses {
    const { model, work } = this
    model.lossSum.zero()
    const batches: number[] = []
    let [sum, tokens] = [0, 0]
    for (const batch of this.#validation) {
      model.evaluate(batch, { recipe })
      const [total, targets] = model.lossSum.floats() as unknown as [number, number]
      batches.push((total - sum) / (targets - tokens))
      ;[sum, tokens] = [total, targets]
      work.add(1)
    }
    return { loss: sum / tokens, tokens, batches }
  }

  /**
   * The gradient of all parameters, in their order.
   * @param draw which random decisions: those that the run would take so many steps on.
   * @param watch is shown every operand as it is quantised.
   */
  gradient(recipe: Recipe, draw = 0, watch?: (made: Watched, microBatch: number) => void): Float32Array {
    const { model, layers } = this
    model.beginStep(this.#step + draw)
    const resolved: ResolvedRecipe[] = resolveRecipe(recipe, layers.sites, layers.depth, 0, 1)
    for (const [i, linear] of model.linears.entries()) linear.recipe = resolved[i]!
    model.parameters.gradient.zero()
    model.lossSum.zero()
    model.setScale(1 / this.sizes.gradientTokens)
    for (const [i, batch] of this.#training.entries()) {
      model.watch(watch && (made => watch(made, i)))
      model.loss(batch, i)
      this.work.add(passesOfGradient)
    }
    model.watch(undefined)
    const gradient = model.parameters.gradient.floats()
    model.beginStep(this.#step)
    return gradient
  }

  /** Draws that a recipe wants: one where it makes no random decisions. */
  drawsOf(recipe: Recipe, draws: number): number {
    return isRandom(recipe) ? draws : 1
  }

  /** How far gradients under a recipe are from `reference`: of all parameters, and of the weight of each linear layer. */
  gradientErrors(
    recipe: Recipe,
    draws: number,
    reference: Float32Array,
  ): { whole: GradientError; linears: GradientError[] } {
    const { parameters, linears } = this.model
    const make = function* (this: Probe): Generator<Float32Array> {
      for (let draw = 0; draw < this.drawsOf(recipe, draws); draw++) yield this.gradient(recipe, draw)
    }
    const all = parameters.all.map(({ offset, value }) => ({ start: offset, end: offset + value.size }))
    const { whole, ranges } = gradientErrors(reference, all, make.call(this))
    const indices = new Map(parameters.all.map(({ name }, i) => [name, i]))
    return { whole, linears: linears.map(({ weight }) => ranges[indices.get(weight.name)!]!) }
  }
}
