import type { RunConfig } from '../../src/config/schema.ts'
import { runSchema } from '../../src/config/schema.ts'
import type { Corpus } from '../../src/data/corpus.ts'
import { MemoryStream } from '../../src/data/stream.ts'
import { signWords } from '../../src/formats/hadamard.ts'
import { Stream } from '../../src/formats/philox.ts'
import { gemms, Linear, linear, roles } from '../../src/ops/linear.ts'
import { Tape, Var } from '../../src/ops/tape.ts'
import { findRecipe } from '../../src/recipes/recipes.ts'
import { resolveRecipe } from '../../src/recipes/resolve.ts'
import type { Backend } from '../../src/tensor/backend.ts'
import type { DType } from '../../src/tensor/dtype.ts'
import { sizeOf, Tensor } from '../../src/tensor/tensor.ts'
import { Trainer } from '../../src/train/trainer.ts'

/** What contestants compute: steps of a model or of one linear layer. */

export interface ModelSpec {
  readonly kind: 'dense' | 'hybrid'
  readonly width: number
  /** Layers of attention and FFN; a hybrid has `pattern` instead. */
  readonly depth?: number
  readonly pattern?: string
  readonly ffn: number
  readonly heads: number
  readonly kv_heads: number
  readonly head_dim: number
  readonly mamba_heads?: number
  readonly mamba_head_dim?: number
  readonly state?: number
  readonly groups?: number
  readonly chunk?: number
  readonly bf16_blocks?: readonly [first: number, last: number]
  readonly vocab: number
  readonly batch: number
  readonly sequence: number
  readonly threads: number
  /** Default cpu. */
  readonly backend?: 'cuda'
}

/** One linear layer [width, width] with the gradients of its weight and its input. */
export interface LinearSpec {
  readonly kind: 'linear'
  readonly width: number
  /** Rows of the input. */
  readonly tokens: number
  readonly threads: number
}

export type PeerSpec = ModelSpec | LinearSpec

/** Something that takes steps. */
export interface Work {
  readonly parameters: number
  /** `count` steps from `first` on; returns the last one's loss, if there is one. */
  steps(first: number, count: number): number
}

/** Random text: what is learnt does not matter here. */
function randomCorpus(vocab: number, tokens: number): Corpus {
  const random = new Stream(1, 0)
  const stream = new MemoryStream(
    Int32Array.from({ length: tokens }, () => random.below(vocab)),
    1,
  )
  return {
    tokenizer: {
      name: 'random',
      tokens: vocab,
      vocab,
      separator: vocab - 1,
      encode: () => new Uint16Array(0),
      decode: () => '',
      bytesOf: () => 1,
      separatorText: '',
      sha256: '',
      json: () => '',
    },
    sources: [{ name: 'random', stream }],
    validation: stream,
    fingerprint: '',
  }
}

export function configOf(spec: ModelSpec, recipe: string): RunConfig {
  const { kind, width, depth, pattern, vocab, batch, sequence, threads, backend, ...sizes } = spec
  const { mamba_heads, mamba_head_dim, state, groups, chunk, ffn, heads, kv_heads, head_dim, bf16_blocks } = sizes
  const mamba = kind === 'hybrid' ? { mamba_heads, mamba_head_dim, state, groups, chunk } : {}
  return runSchema.parse({
    steps: 1_000_000,
    recipe,
    threads,
    model: {
      pattern: pattern ?? '*-'.repeat(depth!),
      hidden: width,
      ffn,
      heads,
      kv_heads,
      head_dim,
      ...mamba,
      vocab,
      bf16_blocks,
      init_std: 0.02,
      activations: backend === 'cuda' ? 'bf16' : 'f32',
    },
    data: { sequence, batch, micro_batch: batch },
    optimizer: { lr: 1e-3 },
  }) as RunConfig
}

export async function trainerOf(spec: ModelSpec, recipe: string, backend: Backend): Promise<Trainer> {
  const corpus = randomCorpus(spec.vocab, 64 * spec.batch * spec.sequence)
  const trainer = new Trainer(configOf(spec, recipe), backend, corpus, { empty: true })
  await trainer.initialise()
  return trainer
}

/** As a run does: a step begins before the result of the one before it is read, where the backend can. */
export function takeSteps(trainer: Trainer, first: number, count: number): number {
  let result = trainer.begin(first)
  for (let step = first + 1; step < first + count; step++) {
    if (!trainer.overlaps) result()
    const next = trainer.begin(step)
    if (trainer.overlaps) result()
    result = next
  }
  return result().loss
}

export async function modelSteps(spec: ModelSpec, recipe: string, backend: Backend): Promise<Work> {
  const trainer = await trainerOf(spec, recipe, backend)
  return { parameters: trainer.model.parameters.count, steps: (first, count) => takeSteps(trainer, first, count) }
}

/** Everything that a step does for a layer in the middle of a model: its weight is quantised anew each time. */
export function linearSteps({ width, tokens }: LinearSpec, recipeName: string, backend: Backend): Work {
  const random = new Stream(1, 1)
  const tensor = (dtype: DType, shape: readonly number[]) => {
    const memory = backend.alloc(Math.max(64, sizeOf(shape) * 4))
    return new Tensor(backend, memory, 0, dtype, shape).zero()
  }
  const normal = (tensor: Tensor, deviation: number) =>
    tensor.write(Float32Array.from({ length: tensor.size }, () => deviation * random.normal()))
  const signs = (kind: 'fixed' | 'none') => tensor('u32', [4]).write(signWords(kind))
  const shape = [width, width]
  const weight = { name: 'weight', shape, value: normal(tensor('f32', shape), 0.02), gradient: tensor('f32', shape) }
  const state = {
    random: tensor('u32', [3]),
    signs: { fixed: signs('fixed'), none: signs('none') },
    microBatch: 0,
    keepsPanels: true,
  }
  const recipe = resolveRecipe(findRecipe(recipeName), [{ name: 'linear', block: 1 }], { blocks: 3 }, 0, 1)[0]!
  const layer = new Linear({
    name: 'linear',
    index: 0,
    weight,
    memory: weight,
    recipe,
    state,
    statistics: tensor('f32', [roles.length, 2]),
    freshSigns: tensor('u32', [gemms.length, 4]),
  })
  const x = normal(tensor('f32', [tokens, width]), 1)
  const dy = normal(tensor('f32', [tokens, width]), 1)
  const tape = new Tape(backend, 'f32')
  const one = (step: number): void => {
    state.random.write(Uint32Array.of(1, 0, step))
    layer.weightChanged()
    weight.gradient.zero()
    tape.scope(() => {
      const input = new Var(x)
      tape.record(input, [], () => {})
      const y = linear(tape, layer, input)
      tape.shareGradient(y, dy)
      tape.differentiate()
    })
  }
  return {
    parameters: width * width,
    steps(first, count) {
      for (let step = first; step < first + count; step++) one(step)
      return 0
    },
  }
}
