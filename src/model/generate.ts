import { Stream } from '../formats/philox.ts'
import type { Recipe } from '../recipes/recipe.ts'
import { Tensor } from '../tensor/tensor.ts'
import type { Model } from './model.ts'

export interface SamplingOptions {
  /** Tokens to make. */
  readonly length: number
  /** 0 takes the likeliest token; 1 samples from the model's distribution. */
  readonly temperature: number
  /** Only the `topK` likeliest tokens are drawn from; 0: all. */
  readonly topK: number
  readonly seed: number
  /** Tokens that must not be drawn from this number on: rows of the head that no token has. */
  readonly tokens: number
  /** Tokens that the model sees at most; older ones are forgotten. */
  readonly window: number
  /** One whose activations are not quantised, or a later token would change earlier ones through the scale of a tensor. */
  readonly recipe: Recipe
}

/** Draws from softmax(scores / temperature) restricted to the `topK` best. */
export function drawToken(
  scores: Float32Array,
  options: Pick<SamplingOptions, 'temperature' | 'topK'>,
  random: Stream,
): number {
  const order = Array.from(scores.keys()).sort((a, b) => scores[b]! - scores[a]! || a - b)
  if (options.temperature === 0) return order[0]!
  const candidates = options.topK > 0 ? order.slice(0, options.topK) : order
  const best = scores[candidates[0]!]!
  const weights = candidates.map(token => Math.exp((scores[token]! - best) / options.temperature))
  let rest = random.uniform() * weights.reduce((sum, weight) => sum + weight, 0)
  for (const [i, weight] of weights.entries()) {
    rest -= weight
    if (rest < 0) return candidates[i]!
  }
  return candidates.at(-1)!
}

/** Rows are computed in multiples of this, so that few shapes of step memory occur. */
const GRAIN = 64

/** Continues `prompt`, which must not be empty, token by token; the whole window goes through the model for each. */
export function* generate(model: Model, prompt: readonly number[], options: SamplingOptions): Generator<number> {
  const random = new Stream(options.seed, 0)
  const { vocab } = model.config
  const context = prompt.slice(-options.window)
  for (let made = 0; made < options.length; made++) {
    const rows = Math.ceil(context.length / GRAIN) * GRAIN
    const tokens = Int32Array.from({ length: rows }, (_, i) => context[i] ?? 0)
    const scores = withRows(model, tokens, (device, starts) => model.logits(device, starts, rows, options.recipe))
    const last = scores.subarray((context.length - 1) * vocab, (context.length - 1) * vocab + options.tokens)
    const token = drawToken(last, options, random)
    yield token
    context.push(token)
    if (context.length > options.window) context.shift()
  }
}

function withRows<T>(model: Model, tokens: Int32Array, body: (tokens: Tensor, starts: Tensor) => T): T {
  const { backend } = model
  const memory = backend.alloc(tokens.byteLength * 2)
  try {
    const device = new Tensor(backend, memory, 0, 'i32', [tokens.length]).write(tokens)
    const starts = new Tensor(backend, memory, tokens.byteLength, 'i32', [tokens.length]).zero()
    return body(device, starts)
  } finally {
    backend.free(memory)
  }
}
