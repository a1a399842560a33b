import { Stream } from '../formats/philox.ts'
import { Decoder, type DecoderOptions } from './decoder.ts'
import type { Model } from './model.ts'

/** How a token is drawn from scores. */
export interface DrawOptions {
  /** 0 takes the likeliest token; 1 samples from the model's distribution. */
  readonly temperature: number
  /** Only the `topK` likeliest tokens are drawn from; 0: all. */
  readonly topK: number
  /** Only the likeliest tokens that together have this probability are drawn from; 1: all. */
  readonly topP: number
}

export interface GenerationOptions extends DrawOptions, DecoderOptions {
  /** Tokens to make. */
  readonly length: number
  readonly seed: number
  /** Tokens that must not be drawn from this number on: rows of the head that no token has. */
  readonly tokens: number
}

/** Draws from softmax(scores / temperature), restricted first to the `topK` best and then to `topP` of the probability. */
export function drawToken(scores: Float32Array, { temperature, topK, topP }: DrawOptions, random: Stream): number {
  const order = Array.from(scores.keys()).sort((a, b) => scores[b]! - scores[a]! || a - b)
  if (temperature === 0) return order[0]!
  const best = scores[order[0]!]!
  const candidates = topK > 0 ? order.slice(0, topK) : order
  const weights = candidates.map(token => Math.exp((scores[token]! - best) / temperature))
  const whole = weights.reduce((sum, weight) => sum + weight, 0)
  let [kept, sum] = [0, 0]
  while (kept < weights.length && (kept === 0 || sum < topP * whole)) sum += weights[kept++]!
  let rest = random.uniform() * sum
  for (const [i, weight] of weights.slice(0, kept).entries()) {
    rest -= weight
    if (rest < 0) return candidates[i]!
  }
  return candidates[kept - 1]!
}

/** Continues `prompt`, which must not be empty, token by token. */
export function* generate(model: Model, prompt: readonly number[], options: GenerationOptions): Generator<number> {
  const random = new Stream(options.seed, 0)
  const decoder = new Decoder(model, options)
  try {
    let read: readonly number[] = prompt
    for (let made = 0; made < options.length; made++) {
      const token = drawToken(decoder.read(read).subarray(0, options.tokens), options, random)
      yield token
      read = [token]
    }
  } finally {
    decoder.close()
  }
}
