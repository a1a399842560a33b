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

/** The `count` tokens with the highest scores, best first, of equal ones the lower number first. */
function bestTokens(scores: Float32Array, count: number): number[] {
  const before = (a: number, b: number) => scores[a]! > scores[b]! || (scores[a]! === scores[b]! && a < b)
  // Sorting all of a large vocabulary would take longer than a small model does.
  if (8 * count > scores.length)
    return Array.from(scores.keys())
      .sort((a, b) => scores[b]! - scores[a]! || a - b)
      .slice(0, count)
  const best: number[] = []
  for (const token of scores.keys()) {
    if (best.length === count && !before(token, best[count - 1]!)) continue
    if (best.length === count) best.pop()
    let at = best.length
    while (at > 0 && before(token, best[at - 1]!)) at--
    best.splice(at, 0, token)
  }
  return best
}

/** Draws from softmax(scores / temperature), restricted first to the `topK` best and then to `topP` of the probability. */
export function drawToken(scores: Float32Array, { temperature, topK, topP }: DrawOptions, random: Stream): number {
  const wanted = temperature === 0 ? 1 : topK > 0 ? Math.min(topK, scores.length) : scores.length
  const candidates = bestTokens(scores, wanted)
  if (temperature === 0) return candidates[0]!
  const best = scores[candidates[0]!]!
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
