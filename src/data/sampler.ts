import type { TokenStream } from './corpus.ts'
import { CorpusError } from './errors.ts'
import { permuted } from './permutation.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * A stream of n tokens is cut into floor((n - 1) / T) windows of T + 1 tokens that overlap by one: T inputs and, one later, T targets.
 * Sequence number g of a run (from 0) is the window permuted(g mod windows) of epoch floor(g / windows): every window once an epoch.
 */

export interface SamplerOptions {
  /** T: tokens in a sequence. */
  readonly sequence: number
  /** Sequences in a micro-batch. */
  readonly microBatch: number
  /** `reset`: state and attention begin anew with each document. */
  readonly boundaries: 'cross' | 'reset'
}

/** Arrays of [microBatch * sequence]. A sampler fills the same arrays at every call. */
export interface Batch {
  readonly tokens: Int32Array
  readonly targets: Int32Array
  /** Per token the position in its sequence where its document begins; 0 where documents run together. */
  readonly starts: Int32Array
  /** Bytes of text that the targets stand for. */
  bytes: number
}

export const windowsOf = (stream: TokenStream, sequence: number): number =>
  Math.max(0, Math.floor((stream.tokens.length - 1) / sequence))

/** Copies windows of a stream into batches. */
class Windows {
  readonly count: number
  readonly batch: Batch
  readonly #stream: TokenStream
  readonly #tokenizer: Tokenizer
  readonly #options: SamplerOptions

  constructor(stream: TokenStream, what: string, tokenizer: Tokenizer, options: SamplerOptions) {
    this.count = windowsOf(stream, options.sequence)
    if (this.count === 0)
      throw new CorpusError(
        `${what} has ${stream.tokens.length} tokens, fewer than the ${options.sequence + 1} of one sequence; give more text in data.files or a smaller data.sequence`,
      )
    this.#stream = stream
    this.#tokenizer = tokenizer
    this.#options = options
    const size = options.microBatch * options.sequence
    const array = () => new Int32Array(size)
    this.batch = { tokens: array(), targets: array(), starts: array(), bytes: 0 }
  }

  /** Fills the batch with the windows that `windowOf` names for its sequences. */
  fill(windowOf: (row: number) => number): Batch {
    const { sequence, microBatch, boundaries } = this.#options
    const { tokens, targets, starts } = this.batch
    const source = this.#stream.tokens
    const { separator } = this.#tokenizer
    let bytes = 0
    for (let row = 0; row < microBatch; row++) {
      const from = windowOf(row) * sequence
      const to = row * sequence
      let start = 0
      for (let i = 0; i < sequence; i++) {
        const token = source[from + i]!
        const target = source[from + i + 1]!
        if (token === separator && boundaries === 'reset') start = i
        tokens[to + i] = token
        targets[to + i] = target
        starts[to + i] = start
        bytes += this.#tokenizer.bytesOf(target)
      }
    }
    this.batch.bytes = bytes
    return this.batch
  }
}

/** Training batches: each is a function of the seed, the step and its index in the step, and of nothing else. */
export class Sampler {
  readonly #windows: Windows
  readonly #seed: number
  readonly #options: SamplerOptions
  readonly #batch: number

  /** @param batch Sequences in a step, a multiple of `options.microBatch`. */
  constructor(stream: TokenStream, tokenizer: Tokenizer, seed: number, batch: number, options: SamplerOptions) {
    this.#windows = new Windows(stream, 'the training text', tokenizer, options)
    this.#seed = seed
    this.#options = options
    this.#batch = batch
  }

  /** Sequences in an epoch. */
  get windows(): number {
    return this.#windows.count
  }

  /** Micro-batch `index` of `step`, both from 0. The arrays are filled again by the next call. */
  batch(step: number, index: number): Batch {
    const { count } = this.#windows
    const first = step * this.#batch + index * this.#options.microBatch
    return this.#windows.fill(row => {
      const sequence = first + row
      return permuted(sequence % count, count, this.#seed, Math.floor(sequence / count))
    })
  }
}

/** Held-out batches: windows spread evenly over the validation text, the same for every run, recipe and seed. */
export class Validation {
  /** How many batches; fewer than asked for where the text is short. */
  readonly batches: number
  readonly #windows: Windows
  readonly #microBatch: number

  constructor(stream: TokenStream, tokenizer: Tokenizer, batches: number, options: SamplerOptions) {
    this.#windows = new Windows(stream, 'the held-out text', tokenizer, options)
    this.#microBatch = options.microBatch
    this.batches = Math.min(batches, Math.max(1, Math.floor(this.#windows.count / options.microBatch)))
  }

  /** Batch `index` from 0. The arrays are filled again by the next call. */
  batch(index: number): Batch {
    const { count } = this.#windows
    const sequences = this.batches * this.#microBatch
    return this.#windows.fill(row => Math.floor(((index * this.#microBatch + row) * count) / sequences))
  }
}

/** Bits per byte of text: the loss is in nats per token, and a separator stands for no byte. */
export const bitsPerByte = (loss: number, tokens: number, bytes: number): number => (loss * tokens) / bytes / Math.LN2
