import { signWords } from '../formats/hadamard.ts'
import { add } from '../ops/add.ts'
import { embedding } from '../ops/embedding.ts'
import { type Head, headLoss, logits } from '../ops/head_loss.ts'
import { gemms, Linear, type LinearState, roles, streamOf, type Watched } from '../ops/linear.ts'
import { recompute } from '../ops/recompute.ts'
import { residualNorm, rmsNorm } from '../ops/rms_norm.ts'
import { Tape, Var } from '../ops/tape.ts'
import { WorkingCopy } from '../ops/working_copy.ts'
import type { Recipe } from '../recipes/recipe.ts'
import { phases, type ResolvedRecipe, resolveRecipe } from '../recipes/resolve.ts'
import { checkShape, outputMultiple } from '../recipes/shapes.ts'
import type { Backend } from '../tensor/backend.ts'
import type { DType } from '../tensor/dtype.ts'
import { persistentTensor, type Tensor } from '../tensor/tensor.ts'
import type { BlockContext, BlockMemory } from './blocks/block.ts'
import { blockKinds } from './blocks/index.ts'
import { keepsCopies, keepsPanels, type LinearShape, type ModelConfig } from './config.ts'
import { type BlockSpec, headName, linearShapes, Parameters, parameterSpecs } from './parameters.ts'
import { readInBf16, roundsHead, WorkingCopies } from './working_copies.ts'

export interface ModelOptions {
  readonly config: ModelConfig
  readonly backend: Backend
  readonly recipe: Recipe
  /** A whole number below 2^53: initial weights and every random decision follow from it. */
  readonly seed: number
  /** Of the whole run: recipes may change at a share of them. */
  readonly steps: number
  /** Tokens in a sequence. */
  readonly sequence: number
  /** Weights are left zero, for whoever restores them at once. */
  readonly empty?: boolean | undefined
  /** Rows of a micro-batch, whole sequences; recipes that quantise along tokens want a multiple of their blocks. */
  readonly tokens: number
}

/** A micro-batch in device memory, each i32[rows]. */
export interface Batch {
  readonly tokens: Tensor
  /** The token that follows, -1 where there is nothing to predict. */
  readonly targets: Tensor
  /** The first position of its sequence that each row may see: 0, or where its document begins. */
  readonly starts: Tensor
}

/** For each of `gemms`, the operand whose random stream also addresses the signs of its rotation. */
const signRoles = ['xRows', 'dyRows', 'dyColumns'] as const

/**
 * Checks in every phase of a recipe that it can run the sizes of a model, with `tokens` rows in a micro-batch.
 * @throws RecipeError naming the layer, the dimension and the nearest size that works.
 */
export function checkModel(config: ModelConfig, recipe: Recipe, steps: number, tokens: number): void {
  const shapes = linearShapes(parameterSpecs(config))
  const depth = { blocks: config.pattern.length, sensitive: config.bf16_blocks }
  for (const step of phases(recipe, steps))
    for (const [i, resolved] of resolveRecipe(recipe, shapes, depth, step, steps).entries()) {
      const shape = shapes[i]!
      const multiple = shape.padded ? outputMultiple(resolved) : 1
      checkShape(resolved, { ...shape, rows: Math.ceil(shape.rows / multiple) * multiple }, tokens)
    }
}

/** A language model: embedding, blocks, final norm, head. */
export class Model {
  readonly config: ModelConfig
  readonly backend: Backend
  readonly recipe: Recipe
  readonly parameters: Parameters
  readonly linears: readonly Linear[]
  /** The steps at which the recipe changes, the first being 0. */
  readonly phases: readonly number[]
  /** f32[linears, roles, 2]: largest magnitude and whether a value was not finite, of what each linear layer last quantised. */
  readonly statistics: Tensor
  /** BF16 copies of weights, where they are kept. */
  readonly copies: WorkingCopies | undefined
  readonly tape: Tape
  /** f32[2]: sum of losses in nats, number of targets; added to by `loss` and `evaluate`, set to zero by the caller. */
  readonly lossSum: Tensor
  readonly #options: ModelOptions
  readonly #blocks: readonly { spec: BlockSpec; parameter: BlockContext['parameter']; linear: BlockContext['linear'] }[]
  readonly #shapes: readonly LinearShape[]
  readonly #state: LinearState
  readonly #headCopy: WorkingCopy
  readonly #scale: Tensor
  /** u32[linears, gemms, 4]. */
  readonly #freshSigns: Tensor
  /** By recipe and first step of a phase. Not by name, which a recipe that is made to probe a model may share with its own. */
  readonly #resolved = new WeakMap<Recipe, Map<number, ResolvedRecipe[]>>()
  #step = 0

  /** @throws Error if the recipe cannot run the config's sizes: names the layer, the dimension and the nearest size that works. */
  constructor(options: ModelOptions) {
    const { config, backend, recipe, seed, empty, steps, sequence, tokens } = options
    const specs = parameterSpecs(config)
    this.config = config
    this.backend = backend
    this.recipe = recipe
    this.#options = options
    this.#shapes = linearShapes(specs)
    this.phases = phases(recipe, steps)
    if (tokens % sequence !== 0)
      throw new Error(`a micro-batch of ${tokens} tokens is not a whole number of sequences of ${sequence}`)
    checkModel(config, recipe, steps, tokens)

    const persistent = (dtype: DType, shape: readonly number[]): Tensor => persistentTensor(backend, dtype, shape)
    this.parameters = new Parameters(backend, specs.all, empty ? undefined : seed)
    this.statistics = persistent('f32', [this.#shapes.length, roles.length, 2])
    this.lossSum = persistent('f32', [2])
    this.#scale = persistent('f32', [1])
    const signs = (kind: 'fixed' | 'none') => persistent('u32', [4]).write(signWords(kind))
    this.#freshSigns = persistent('u32', [this.#shapes.length, gemms.length, 4])
    this.#state = {
      random: persistent('u32', [3]),
      signs: { fixed: signs('fixed'), none: signs('none') },
      microBatch: 0,
      keepsPanels: keepsPanels(config),
    }
    const inPhases = this.phases.map(step => this.#resolve(recipe, step))
    const copied = keepsCopies(config) ? readInBf16(recipe, this.#shapes, inPhases) : new Set<string>()
    this.copies = copied.size > 0 ? new WorkingCopies(this.parameters, copied) : undefined
    this.#headCopy = new WorkingCopy(this.parameters.named(headName).value, this.copies?.of(headName))
    this.tape = new Tape(backend, config.activations)

    const first = this.#resolve(recipe, 0)
    this.linears = this.#shapes.map(({ name }, i) => {
      const weight = this.parameters.named(`backbone.${name}.weight`)
      const statistics = this.statistics.part(i * roles.length * 2, [roles.length, 2])
      const freshSigns = this.#freshSigns.part(i * gemms.length * 4, [gemms.length, 4])
      return new Linear({
        name,
        index: i,
        weight,
        memory: weight.padded,
        rounded: this.copies?.of(weight.name),
        recipe: first[i]!,
        state: this.#state,
        statistics,
        freshSigns,
      })
    })
    const linears = new Map(this.linears.map(linear => [linear.name, linear]))
    this.#blocks = specs.blocks.map(spec => ({
      spec,
      parameter: name => this.parameters.named(`backbone.${spec.name}.${name}`),
      linear: name => linears.get(`${spec.name}.${name}`)!,
    }))
    this.beginStep(0)
  }

  /** The first step of the phase that the recipe is in. */
  get phase(): number {
    return this.phases.findLast(start => start <= this.#step)!
  }

  /** Steps before `step` are done: addresses its random decisions and applies the recipe's phase. */
  beginStep(step: number): void {
    const { seed } = this.#options
    const random = Uint32Array.of(seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, step)
    this.#step = step
    this.#state.random.write(random)
    this.#use(this.recipe)
    this.#drawSigns(random)
    // Images that validation made under the last step's randomness must not live on.
    this.dropImages()
    // Before what is recorded and replayed, which relies on copies that the optimizer brings up to date.
    for (const { copy } of this.linears) copy.refresh()
    this.#headCopy.refresh()
  }

  #drawSigns(random: Uint32Array): void {
    const wanted = this.linears.some(({ recipe }) => gemms.some(gemm => recipe[gemm].hadamard?.signs === 'fresh'))
    if (!wanted) return
    const signs = new Uint32Array(this.#freshSigns.size)
    for (const i of this.linears.keys())
      for (const [j, role] of signRoles.entries())
        signs.set(signWords('fresh', random, streamOf(i, role, 0)), (i * gemms.length + j) * 4)
    this.#freshSigns.write(signs)
  }

  /** Shows every operand to `watch` as it is quantised, until called again; undefined: to nobody. */
  watch(watch: ((made: Watched) => void) | undefined): void {
    this.#state.watch = watch
  }

  /** Must be called after weights have changed, unless the optimizer did it. */
  weightsChanged(): void {
    for (const linear of this.linears) linear.weightChanged()
    this.#headCopy.weightChanged()
  }

  /** Images of weights are made anew at their next use; to be called after the optimizer has changed weights, and `copies` with them. */
  dropImages(): void {
    for (const linear of this.linears) linear.dropImages()
  }

  /** What the gradients of each token are multiplied by: 1 / targets of all micro-batches of a step. */
  setScale(scale: number): void {
    this.#scale.write(Float32Array.of(scale))
  }

  /**
   * Forward and backward pass of one micro-batch: adds to all gradients and to `lossSum`, but overwrites those gradients that parameters say
   * where it is the first.
   * @param microBatch its index within the step.
   */
  loss(batch: Batch, microBatch: number): void {
    this.#state.microBatch = microBatch
    this.tape.recording = true
    try {
      this.tape.scope(() => {
        const h = this.#hidden(batch.tokens, batch.starts, this.#options.sequence)
        headLoss(this.tape, h, this.#head(this.recipe), batch.targets, {
          scale: this.#scale,
          loss: this.lossSum,
          accumulate: microBatch > 0 ? 1 : 0,
        })
        this.tape.differentiate()
      })
    } finally {
      this.tape.reset()
    }
  }

  /** Adds the loss of a batch to `lossSum`, without gradients. `recipe` other than the run's stays in force for this call alone. */
  evaluate(batch: Batch, { recipe = this.recipe, losses }: { recipe?: Recipe; losses?: Tensor } = {}): void {
    this.#without(recipe, () => {
      const h = this.#hidden(batch.tokens, batch.starts, this.#options.sequence)
      headLoss(this.tape, h, this.#head(recipe), batch.targets, { loss: this.lossSum, ...(losses && { losses }) })
    })
  }

  /**
   * Scores of the next token after each row, f32[rows * vocab]; rows are whole sequences of `sequence` tokens.
   * @param recipe one without tensor-wide scales of activations, such as bf16, if later tokens must not change earlier ones.
   */
  logits(tokens: Tensor, starts: Tensor, sequence: number, recipe: Recipe): Float32Array {
    return this.#without(recipe, () => {
      const h = this.#hidden(tokens, starts, sequence)
      return logits(this.tape, h, this.#head(recipe)).value.floats()
    })
  }

  /**
   * Scores of the token after the last of `tokens` i32[rows], f32[vocab], where the rows continue the sequence that `memory`, one for each
   * block, remembers; it is brought up to date.
   * @param recipe as in `logits`.
   */
  next(tokens: Tensor, memory: readonly BlockMemory[], recipe: Recipe): Float32Array {
    return this.#without(recipe, () => {
      const rows = tokens.shape[0]!
      const h = this.#hidden(tokens, tokens, rows, memory).value
      const last = new Var(h.part((rows - 1) * this.config.hidden, [1, this.config.hidden]))
      return logits(this.tape, last, this.#head(recipe)).value.floats()
    })
  }

  /** Runs `body` in a scope that records nothing, under another recipe. */
  #without<T>(recipe: Recipe, body: () => T): T {
    this.#state.microBatch = 0
    this.#use(recipe)
    try {
      return this.tape.unrecorded(body)
    } finally {
      this.#use(this.recipe)
    }
  }

  /** The stream after the final norm, [rows, hidden]. What a block makes is added to the stream by the next norm, which reads both. */
  #hidden(tokens: Tensor, starts: Tensor, sequence: number, memory?: readonly BlockMemory[]): Var {
    const { tape, parameters, config } = this
    const { eps } = config
    let stream = embedding(tape, tokens, parameters.named('backbone.embeddings.weight'))
    let branch: Var | undefined
    for (const [i, { spec, parameter, linear }] of this.#blocks.entries()) {
      const context = { config, parameter, linear, sequence, starts, memory: memory?.[i] }
      const weight = parameter('norm.weight')
      const mixer = (normed: Var): Var => blockKinds[spec.kind]!.forward(tape, normed, context)
      if (config.recompute === 'block')
        stream = recompute(tape, stream, x => tape.scope(() => add(tape, x, mixer(rmsNorm(tape, x, weight, eps)))))
      else
        [stream, branch] = tape.scope((): [Var, Var] => {
          const { sum, normed } = residualNorm(tape, stream, branch, weight, eps)
          return [sum, mixer(normed)]
        })
    }
    const weight = parameters.named('backbone.norm_f.weight')
    return tape.scope(() => residualNorm(tape, stream, branch, weight, eps).normed)
  }

  #head(recipe: Recipe): Head {
    return { weight: this.parameters.named(headName), copy: this.#headCopy, round: roundsHead(recipe) }
  }

  #use(recipe: Recipe): void {
    const phase = phases(recipe, this.#options.steps).findLast(start => start <= this.#step)!
    const resolved = this.#resolve(recipe, phase)
    for (const [i, linear] of this.linears.entries()) linear.recipe = resolved[i]!
  }

  #resolve(recipe: Recipe, step: number): ResolvedRecipe[] {
    const ofRecipe = this.#resolved.get(recipe) ?? new Map<number, ResolvedRecipe[]>()
    this.#resolved.set(recipe, ofRecipe)
    const known = ofRecipe.get(step)
    if (known) return known
    const { config, steps } = this.#options
    const depth = { blocks: config.pattern.length, sensitive: config.bf16_blocks }
    const resolved = resolveRecipe(recipe, this.#shapes, depth, step, steps)
    ofRecipe.set(step, resolved)
    return resolved
  }
}
