import type { Hash } from 'node:crypto'
import type { TokenArray } from './tokenizer.ts'

/** Tokens of packed documents, in memory or on disk, with a separator between one document and the next. */
export interface TokenStream {
  /** Tokens, separators included. */
  readonly length: number
  /** Undefined where a file does not say. */
  readonly documents: number | undefined
  /** Copies tokens `from` .. `from + count - 1` to `into` at `at`. */
  read(from: number, count: number, into: Int32Array, at: number): void
  /** Asks for tokens that will be read soon, without waiting for them. */
  prefetch?(from: number, count: number): void
  /** Adds what the stream holds to a hash: its tokens or, of files too large to read through, enough to tell another file by. */
  identify(hash: Hash): void
}

/** A stream whose tokens are all in memory. */
export class MemoryStream implements TokenStream {
  readonly tokens: TokenArray
  readonly documents: number

  constructor(tokens: TokenArray, documents: number) {
    this.tokens = tokens
    this.documents = documents
  }

  get length(): number {
    return this.tokens.length
  }

  read(from: number, count: number, into: Int32Array, at: number): void {
    into.set(this.tokens.subarray(from, from + count), at)
  }

  identify(hash: Hash): void {
    const { buffer, byteOffset, byteLength } = this.tokens
    hash.update(new Uint8Array(buffer, byteOffset, byteLength))
  }
}

/** Streams one after the other, as one. */
class JoinedStream implements TokenStream {
  readonly #parts: readonly TokenStream[]
  /** Where each part begins, and where the last ends. */
  readonly #starts: readonly number[]
  readonly documents: number | undefined

  constructor(parts: readonly TokenStream[]) {
    this.#parts = parts
    const starts = [0]
    for (const { length } of parts) starts.push(starts.at(-1)! + length)
    this.#starts = starts
    this.documents = parts.reduce<number | undefined>(
      (sum, { documents }) => (sum === undefined || documents === undefined ? undefined : sum + documents),
      0,
    )
  }

  get length(): number {
    return this.#starts.at(-1)!
  }

  /** Calls back for each part that holds some of the tokens, with their place in it. */
  #each(
    from: number,
    count: number,
    visit: (part: TokenStream, from: number, count: number, done: number) => void,
  ): void {
    let [low, high] = [0, this.#parts.length - 1]
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.#starts[middle]! <= from) low = middle
      else high = middle - 1
    }
    for (let done = 0; done < count; low++) {
      const begin = from + done - this.#starts[low]!
      const length = Math.min(count - done, this.#parts[low]!.length - begin)
      if (length > 0) visit(this.#parts[low]!, begin, length, done)
      done += Math.max(0, length)
    }
  }

  read(from: number, count: number, into: Int32Array, at: number): void {
    this.#each(from, count, (part, begin, length, done) => part.read(begin, length, into, at + done))
  }

  prefetch(from: number, count: number): void {
    this.#each(from, count, (part, begin, length) => part.prefetch?.(begin, length))
  }

  identify(hash: Hash): void {
    for (const part of this.#parts) part.identify(hash)
  }
}

export const joinStreams = (parts: readonly TokenStream[]): TokenStream =>
  parts.length === 1 ? parts[0]! : new JoinedStream(parts)

/** Tokens `from` .. `to - 1` of a stream as a stream of its own. */
export function partOf(stream: TokenStream, from: number, to: number, documents?: number): TokenStream {
  return {
    length: to - from,
    documents,
    read: (begin, count, into, at) => stream.read(from + begin, count, into, at),
    prefetch: (begin, count) => stream.prefetch?.(from + begin, count),
    identify: hash => {
      stream.identify(hash)
      hash.update(`${from} ${to}`)
    },
  }
}
