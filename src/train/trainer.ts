import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import type { Corpus } from '../data/corpus.ts'
import { mixtureOf } from '../data/mixture.ts'
import { type Batch as HostBatch, Sampler, Validation } from '../data/sampler.ts'
import { type Batch, Model } from '../model/model.ts'
import { type Role, roles } from '../ops/linear.ts'
import type { Recipe } from '../recipes/recipe.ts'
import type { Checkpoint, CheckpointFiles, CheckpointTensor } from '../run/checkpoint.ts'
import { fromBackend } from '../run/checkpoint.ts'
import { type RestoredTensor, restoreTensors, toBackend } from '../run/restore.ts'
import type { Backend } from '../tensor/backend.ts'
import { Tensor } from '../tensor/tensor.ts'
import { operandPlace, type Place } from './guards.ts'
import { measure, type NumericsRecord, type OperandNumerics } from './numerics.ts'
import { type GradientReport, Optimizer } from './optimizer.ts'
import { learningRate } from './schedule.ts'

export interface StepResult extends GradientReport {
  /** Mean cross-entropy of the step's targets, in nats. */
  readonly loss: number
  readonly lr: number
  /** What linear layers quantised that was not finite, in the order of the computation. */
  readonly nonFiniteOperands: readonly Place[]
  /** What quantisation did, if the step was sampled. */
  readonly numerics: readonly NumericsRecord[]
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
  readonly #sampler: Sampler
  readonly #validation: Validation
  readonly #batch: Batch
  readonly #microBatches: number

  /**
   * @param recipe what to compute in, if not the config's recipe under its rules.
   * @throws Error if text, config and recipe do not fit together.
   */
  constructor(config: RunConfig, backend: Backend, corpus: Corpus, recipe: Recipe = recipeOf(config)) {
    const { sequence, batch, micro_batch: microBatch, boundaries } = config.data
    const tokens = sequence * microBatch
    this.config = config
    this.model = new Model({
      config: config.model,
      backend,
      recipe,
      seed: config.seed,
      steps: config.steps,
      sequence,
      tokens,
    })
    this.optimizer = new Optimizer(this.model.parameters, config.optimizer)
    const options = { sequence, microBatch, boundaries }
    const order = { mixture: mixtureOf(config.data, config.steps, batch), seed: config.seed, batch }
    this.#sampler = new Sampler(corpus.sources, corpus.tokenizer, order, options)
    this.#validation = new Validation(corpus.validation, corpus.tokenizer, config.validation.batches, options)
    this.#microBatches = batch / microBatch
    const rows = (): Tensor => new Tensor(backend, backend.alloc(tokens * 4), 0, 'i32', [tokens])
    this.#batch = { tokens: rows(), targets: rows(), starts: rows() }
  }

  get tokensPerStep(): number {
    return this.config.data.sequence * this.config.data.batch
  }

  #upload({ tokens, targets, starts }: HostBatch): Batch {
    this.#batch.tokens.write(tokens)
    this.#batch.targets.write(targets)
    this.#batch.starts.write(starts)
    return this.#batch
  }

  /**
   * Step `step` (from 0): forward and backward over all micro-batches, then one update.
   * @param sampled whether to measure what quantisation does, which takes a moment.
   */
  step(step: number, sampled = false): StepResult {
    const { model, optimizer, config } = this
    const lr = learningRate(step, config.steps, config.optimizer.lr, config.schedule)
    model.beginStep(step)
    model.lossSum.zero()
    model.setScale(1 / this.tokensPerStep)
    const nonFiniteOperands: Place[] = []
    const operands: OperandNumerics[] = []
    if (sampled) model.watch(made => operands.push(measure(made, step)))
    for (let i = 0; i < this.#microBatches; i++) {
      model.loss(this.#upload(this.#sampler.batch(step, i)), i)
      nonFiniteOperands.push(...this.#nonFiniteOperands())
      model.watch(undefined)
    }
    optimizer.step(step, lr)
    model.weightsChanged()
    const [sum, targets] = model.lossSum.floats() as unknown as [number, number]
    const numerics = sampled ? this.#withGradients(operands) : []
    return { ...optimizer.report(), loss: sum / targets, lr, nonFiniteOperands, numerics }
  }

  /** Of the micro-batch just done (the next one overwrites what layers found), in the order in which they were made: the first is where it began. */
  #nonFiniteOperands(): Place[] {
    const statistics = this.model.statistics.floats()
    const found = (wanted: readonly Role[]) =>
      this.model.linears.flatMap(({ name }, i) =>
        wanted
          .filter(role => statistics[2 * (i * roles.length + roles.indexOf(role)) + 1] !== 0)
          .map(role => operandPlace(name, role)),
      )
    return [...found(forwardRoles), ...found(backwardRoles).reverse()]
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
      model: this.#tensors((name, tensor) => fromBackend(name, tensor), ['']),
      optimizer: this.#tensors((name, tensor) => fromBackend(name, tensor), ['first', 'second']),
    } satisfies Record<string, CheckpointTensor[]>
  }

  /** @throws UserError if the checkpoint holds other tensors than this model has. */
  restore(checkpoint: Checkpoint): void {
    this.restoreWeights(checkpoint)
    const moments: RestoredTensor[] = this.#tensors((name, tensor) => toBackend(name, tensor), ['first', 'second'])
    restoreTensors(checkpoint.files.optimizer!, moments)
  }

  /** The weights alone, and the phase of the recipe that made them, for whoever only evaluates. */
  restoreWeights(checkpoint: Checkpoint): void {
    restoreTensors(
      checkpoint.files.model!,
      this.#tensors((name, tensor) => toBackend(name, tensor), ['']),
    )
    this.model.beginStep(Math.max(0, checkpoint.state.step - 1))
  }

  /** Weights under their own names (''), moments as `<name>.first` and `<name>.second`. */
  #tensors<T>(make: (name: string, tensor: Tensor) => T, of: readonly ('' | 'first' | 'second')[]): T[] {
    const { all, value } = this.model.parameters
    const { moments } = this.optimizer
    return of.flatMap(which =>
      all.map(({ name, shape, offset }) =>
        which === ''
          ? make(name, value.part(offset, shape))
          : make(`${name}.${which}`, moments[which].part(offset, shape)),
      ),
    )
  }
}
