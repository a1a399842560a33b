import type { Source } from './corpus.ts'
import { CorpusError } from './errors.ts'
import type { Mixture } from './mixture.ts'
import { permuted } from './permutation.ts'
import type { TokenStream } from './stream.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * A stream of n tokens is cut into floor((n - 1) / T) windows of T + 1 tokens that overlap by one: T inputs and, one later, T targets.
 * Sequence number g of a source (from 0) is its window permuted(g mod windows) of epoch floor(g / windows): every window once an epoch. Which
 * source a sequence of the run comes from, a mixture says (src/data/mixture.ts).
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
  Math.max(0, Math.floor((stream.length - 1) / sequence))

/**
 * How many windows a stream has.
 * @throws CorpusError if it has none.
 */
function countWindows(stream: TokenStream, what: string, { sequence }: Pick<SamplerOptions, 'sequence'>): number {
  const count = windowsOf(stream, sequence)
  if (count === 0)
    throw new CorpusError(
      `${what} has ${stream.length} tokens, fewer than the ${sequence + 1} of one sequence; give more text in data.files or a smaller data.sequence`,
    )
  return count
}

/** Sequences in an epoch of each source; none may be too short for one. */
export const countSourceWindows = (sources: readonly Source[], options: Pick<SamplerOptions, 'sequence'>): number[] =>
  sources.map(({ name, stream }) =>
    countWindows(stream, sources.length > 1 ? `the training text of ${name}` : 'the training text', options),
  )

/** A window of a stream. */
interface Window {
  readonly stream: TokenStream
  readonly window: number
}

/** Copies windows into batches. */
class Filler {
  readonly #batch: Batch
  readonly #window: Int32Array
  readonly #tokenizer: Tokenizer
  readonly #options: SamplerOptions

  constructor(tokenizer: Tokenizer, options: SamplerOptions) {
    this.#tokenizer = tokenizer
    this.#options = options
    const size = options.microBatch * options.sequence
    const array = () => new Int32Array(size)
    this.#batch = { tokens: array(), targets: array(), starts: array(), bytes: 0 }
    this.#window = new Int32Array(options.sequence + 1)
  }

  /** Fills the batch with the windows that `windowOf` names for its sequences. */
  fill(windowOf: (row: number) => Window): Batch {
    const { sequence, microBatch, boundaries } = this.#options
    const { tokens, targets, starts } = this.#batch
    const source = this.#window
    const { separator, tokens: vocabulary } = this.#tokenizer
    let bytes = 0
    for (let row = 0; row < microBatch; row++) {
      const { stream, window } = windowOf(row)
      stream.read(window * sequence, sequence + 1, source, 0)
      for (let i = 0; i <= sequence; i++)
        if (source[i]! < 0 || source[i]! >= vocabulary)
          throw new CorpusError(
            `token ${window * sequence + i} of the stream is ${source[i]}, wanted below ${vocabulary}, the tokens of data.tokenizer ${this.#tokenizer.name}`,
          )
      const to = row * sequence
      let start = 0
      for (let i = 0; i < sequence; i++) {
        const token = source[i]!
        const target = source[i + 1]!
        if (token === separator && boundaries === 'reset') start = i
        tokens[to + i] = token
        targets[to + i] = target
        starts[to + i] = start
        bytes += this.#tokenizer.bytesOf(target)
      }
    }
    this.#batch.bytes = bytes
    return this.#batch
  }
}

export interface TrainingOrder {
  readonly mixture: Mixture
  readonly seed: number
  /** Sequences in a step, a multiple of `microBatch`. */
  readonly batch: number
}

/** Training batches: each is a function of the seed, the step and its index in the step, and of nothing else. */
export class Sampler {
  readonly #sources: readonly { readonly stream: TokenStream; readonly windows: number }[]
  readonly #filler: Filler
  readonly #order: TrainingOrder
  readonly #options: SamplerOptions

  constructor(sources: readonly Source[], tokenizer: Tokenizer, order: TrainingOrder, options: SamplerOptions) {
    const windows = countSourceWindows(sources, options)
    this.#sources = sources.map(({ stream }, source) => ({ stream, windows: windows[source]! }))
    this.#filler = new Filler(tokenizer, options)
    this.#order = order
    this.#options = options
  }

  /** Sequences in an epoch of each source. */
  get windows(): number[] {
    return this.#sources.map(({ windows }) => windows)
  }

  /** Where sequence number `sequence` of the run is. */
  #find(sequence: number): Window {
    const { mixture, seed } = this.#order
    const { source, index } = mixture.at(sequence)
    const { stream, windows } = this.#sources[source]!
    return { stream, window: permuted(index % windows, windows, seed, Math.floor(index / windows), source) }
  }

  /** Micro-batch `index` of `step`, both from 0. The arrays are filled again by the next call. */
  batch(step: number, index: number): Batch {
    const first = step * this.#order.batch + index * this.#options.microBatch
    return this.#filler.fill(row => this.#find(first + row))
  }

  /** Asks the system to read the sequences of a step, so that they are at hand when it begins. Changes nothing of what `batch` gives. */
  prefetch(step: number): void {
    const { batch } = this.#order
    const { sequence } = this.#options
    for (let i = 0; i < batch; i++) {
      const { stream, window } = this.#find(step * batch + i)
      if (!stream.prefetch) continue
      stream.prefetch(window * sequence, sequence + 1)
    }
  }
}

/** Held-out batches: windows spread evenly over the validation text, the same for every run, recipe and seed. */
export class Validation {
  /** How many batches; fewer than asked for where the text is short. */
  readonly batches: number
  readonly #stream: TokenStream
  readonly #windows: number
  readonly #filler: Filler
  readonly #microBatch: number

  constructor(stream: TokenStream, tokenizer: Tokenizer, batches: number, options: SamplerOptions) {
    this.#stream = stream
    this.#windows = countWindows(stream, 'the held-out text', options)
    this.#filler = new Filler(tokenizer, options)
    this.#microBatch = options.microBatch
    this.batches = Math.min(batches, Math.max(1, Math.floor(this.#windows / options.microBatch)))
  }

  /** Batch `index` from 0. The arrays are filled again by the next call. */
  batch(index: number): Batch {
    const sequences = this.batches * this.#microBatch
    return this.#filler.fill(row => ({
      stream: this.#stream,
      window: Math.floor(((index * this.#microBatch + row) * this.#windows) / sequences),
    }))
  }
}

/** Bits per byte of text: the loss is in nats per token, and a separator stands for no byte. */
export const bitsPerByte = (loss: number, tokens: number, bytes: number): number => (loss * tokens) / bytes / Math.LN2
