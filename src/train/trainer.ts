import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import type { Corpus } from '../data/corpus.ts'
import { mixtureOf } from '../data/mixture.ts'
import { type Batch as HostBatch, Sampler, Validation } from '../data/sampler.ts'
import { type DrawOptions, drawWeights } from '../model/draw.ts'
import type { Batch, Model } from '../model/model.ts'
import { type Role, roles, type Watched } from '../ops/linear.ts'
import type { Checkpoint, CheckpointFiles } from '../run/checkpoint.ts'
import { fromBackend } from '../run/checkpoint.ts'
import type { Progress } from '../run/files.ts'
import { restoreTensors, toBackend } from '../run/restore.ts'
import type { Backend } from '../tensor/backend.ts'
import { usableProcessors } from '../tensor/processors.ts'
import type { Routes } from '../tensor/routes.ts'
import { persistentTensor, type Tensor } from '../tensor/tensor.ts'
import { operandPlace, type Place } from './guards.ts'
import { measure, type NumericsRecord, type OperandNumerics, sampleOf } from './numerics.ts'
import { type GradientReport, Optimizer } from './optimizer.ts'
import { learningRate } from './schedule.ts'
import { type CreateOptions, createModel, restoreWeights } from './weights.ts'

export interface StepResult extends GradientReport {
  /** Mean cross-entropy of the step's targets, in nats. */
  readonly loss: number
  readonly lr: number
  /** What linear layers quantised that was not finite, in the order of the computation. */
  readonly nonFiniteOperands: readonly Place[]
  /** What quantisation did, if the step was sampled. */
  readonly numerics: readonly NumericsRecord[]
  /** The first step of the recipe's phase. */
  readonly phase: number
  /** What served the step's products, where a backend has a choice. */
  readonly routes: Routes | undefined
}

export interface ValidationResult {
  /** Mean cross-entropy in nats per token. */
  readonly loss: number
  readonly tokens: number
  /** Bytes of text that the targets stand for. */
  readonly bytes: number
}

/** Operands quantised in the forward pass, those of a layer in their order, and in the backward pass. */
const forwardRoles: readonly Role[] = ['wRows', 'xRows', 'xColumns']
const backwardRoles: readonly Role[] = ['wColumns', 'dyRows', 'dyColumns']

/** A model, its optimizer and its data: everything that a step computes, nothing of where it is recorded. */
export class Trainer {
  readonly config: RunConfig
  readonly model: Model
  readonly optimizer: Optimizer
  readonly sampler: Sampler
  readonly #validation: Validation
  /** Of all micro-batches of a step, so that none waits for the host. */
  readonly #batches: readonly Batch[]
  /** f32[micro-batches, ...]: the model's statistics as each micro-batch left them. */
  readonly #found: Tensor
  /** Whether the weights are neither drawn nor restored. */
  #isEmpty: boolean

  /** @throws Error if text, config and recipe do not fit together. */
  constructor(config: RunConfig, backend: Backend, corpus: Corpus, options: CreateOptions = {}) {
    const { sequence, batch, micro_batch: microBatch, boundaries } = config.data
    this.config = config
    this.#isEmpty = options.empty ?? false
    this.model = createModel(config, backend, options)
    this.optimizer = new Optimizer(this.model.parameters, config.optimizer, this.model.copies)
    const rowOptions = { sequence, microBatch, boundaries }
    const order = { mixture: mixtureOf(config.data, config.steps, batch), seed: config.seed, batch }
    this.sampler = new Sampler(corpus.sources, corpus.tokenizer, order, rowOptions)
    this.#validation = new Validation(corpus.validation, corpus.tokenizer, config.validation.batches, rowOptions)
    const microBatches = batch / microBatch
    const rows = (): Tensor => persistentTensor(backend, 'i32', [sequence * microBatch])
    this.#batches = Array.from({ length: microBatches }, () => ({ tokens: rows(), targets: rows(), starts: rows() }))
    this.#found = persistentTensor(backend, 'f32', [microBatches, ...this.model.statistics.shape])
  }

  get tokensPerStep(): number {
    return this.config.data.sequence * this.config.data.batch
  }

  /** Whether a step is still under way when `begin` returns, so that the next one may begin before its result is asked for. */
  get overlaps(): boolean {
    return this.model.backend.readLater !== undefined
  }

  #upload({ tokens, targets, starts }: HostBatch, into = this.#batches[0]!): Batch {
    into.tokens.write(tokens)
    into.targets.write(targets)
    into.starts.write(starts)
    return into
  }

  /**
   * Begins step `step` (from 0): forward and backward over all micro-batches, then one update. The function that it returns waits for it.
   *
   * Everything that changes from step to step is written before, so that the rest can be recorded once for each phase of the recipe and
   * replayed. A sampled step looks at operands while their memory is alive and is never replayed.
   * @param sampled whether to measure what quantisation does, which takes a moment.
   */
  begin(step: number, sampled = false): () => StepResult {
    const { model, optimizer, config } = this
    const lr = learningRate(step, config.steps, config.optimizer.lr, config.schedule)
    model.beginStep(step)
    model.setScale(1 / this.tokensPerStep)
    optimizer.schedule(step, lr)
    for (const [i, batch] of this.#batches.entries()) this.#upload(this.sampler.batch(step, i), batch)
    this.sampler.prefetch(step + 1)

    const operands: OperandNumerics[] = []
    const { backend, phase } = model
    const sample = sampleOf(step + 1, config.steps)
    // Products of validation are not the step's.
    backend.takeRoutes?.()
    // What is computed again in the backward pass is shown again.
    const watch = (made: Watched) => {
      if (!operands.some(({ linear, operand }) => linear === made.linear && operand === made.role))
        operands.push(measure(made, sample))
    }
    if (sampled || !backend.capture) this.#compute(sampled ? watch : undefined)
    else backend.capture(`step of phase ${phase}`, () => this.#compute())

    const [loss, found, report] = [model.lossSum.readLater(), this.#found.readLater(), optimizer.report()]
    const routes = backend.takeRoutes?.()
    const numerics = sampled ? this.#withGradients(operands) : []
    return () => {
      const [sum, targets] = loss() as unknown as [number, number]
      const nonFiniteOperands = this.#nonFiniteOperands(found() as Float32Array)
      return { ...report(), loss: sum / targets, lr, nonFiniteOperands, numerics, phase, routes }
    }
  }

  /** A whole step, waited for. */
  step(step: number, sampled = false): StepResult {
    return this.begin(step, sampled)()
  }

  /** @param watch is shown the operands of the first micro-batch. */
  #compute(watch?: (made: Watched) => void): void {
    const { model, optimizer } = this
    const { statistics, lossSum, backend } = model
    lossSum.zero()
    model.watch(watch)
    for (const [i, batch] of this.#batches.entries()) {
      model.loss(batch, i)
      const found = this.#found.part(i * statistics.size, statistics.shape)
      backend.copy(statistics.memory, statistics.offset, found.memory, found.offset, statistics.bytes)
      model.watch(undefined)
    }
    optimizer.update(this.#found.view([this.#found.size / 2, 2]))
    model.dropImages()
  }

  /** By micro-batch, in the order in which operands were made: the first is where it began. */
  #nonFiniteOperands(statistics: Float32Array): Place[] {
    const { linears, statistics: one } = this.model
    return [...this.#batches.keys()].flatMap(batch => {
      const found = (wanted: readonly Role[]) =>
        linears.flatMap(({ name }, i) =>
          wanted
            .filter(role => statistics[batch * one.size + 2 * (i * roles.length + roles.indexOf(role)) + 1] !== 0)
            .map(role => operandPlace(name, role)),
        )
      return [...found(forwardRoles), ...found(backwardRoles).reverse()]
    })
  }

  /** Adds to what was measured of each layer's operands what its weight's gradient was; a layer that quantises nothing has that alone. */
  #withGradients(operands: readonly OperandNumerics[]): NumericsRecord[] {
    const gradients = this.optimizer.gradients()
    return this.model.linears.flatMap(({ name, weight }): NumericsRecord[] => {
      const { norm, zeros } = gradients.get(weight.name)!
      const gradient = { grad_norm: norm, zero_wgrad: zeros }
      const own = operands.filter(({ linear }) => linear === name)
      return own.length > 0 ? own.map(operand => ({ ...operand, ...gradient })) : [{ linear: name, ...gradient }]
    })
  }

  /** The loss on the held-out batches, in the run's recipe or that of another name under the same rules. Leaves no trace in the training that follows. */
  validate(recipeName?: string): ValidationResult {
    const { model } = this
    const recipe = recipeName === undefined ? model.recipe : recipeOf(this.config, recipeName)
    let bytes = 0
    model.lossSum.zero()
    for (let i = 0; i < this.#validation.batches; i++) {
      const batch = this.#validation.batch(i)
      bytes += batch.bytes
      model.evaluate(this.#upload(batch), { recipe })
    }
    const [sum, tokens] = model.lossSum.floats() as unknown as [number, number]
    return { loss: sum / tokens, tokens, bytes }
  }

  /** Tensors of a checkpoint, by file. */
  files(): CheckpointFiles {
    return {
      model: this.model.parameters.all.map(({ name, value }) => fromBackend(name, value)),
      optimizer: this.#moments(fromBackend),
    }
  }

  /**
   * Draws the initial weights of a trainer that was made empty and has none yet, as the other trainers have them from the start.
   * @param options threads as those of the config, or all that the machine has.
   */
  async initialise(options: Omit<DrawOptions, 'threads'> = {}): Promise<void> {
    if (!this.#isEmpty) return
    const { model, seed, threads = usableProcessors() } = this.config
    await drawWeights(this.model.parameters, model, seed, { ...options, threads })
    this.model.weightsChanged()
    this.#isEmpty = options.signal?.aborted === true
  }

  /**
   * @param progress told of the bytes that are read.
   * @throws UserError if the checkpoint holds other tensors than this model has.
   */
  restore(checkpoint: Checkpoint, progress?: Progress): void {
    this.restoreWeights(checkpoint, progress)
    const what = `reading the moments of step ${checkpoint.state.step}`
    restoreTensors(checkpoint.files.optimizer!, this.#moments(toBackend), (...told) => progress?.(...told, what))
  }

  /** The weights alone, and the phase of the recipe that made them, for whoever only evaluates. */
  restoreWeights(checkpoint: Checkpoint, progress?: Progress): void {
    restoreWeights(this.model, checkpoint, progress)
    this.#isEmpty = false
  }

  /** Moments as `<name>.first` and `<name>.second`. */
  #moments<T>(make: (name: string, tensor: Tensor) => T): T[] {
    const { moments } = this.optimizer
    return (['first', 'second'] as const).flatMap(which =>
      this.model.parameters.all.map(({ name, shape, offset }) =>
        make(`${name}.${which}`, moments[which].part(offset, shape)),
      ),
    )
  }
}
