import type { Hash } from 'node:crypto'
import { closeSync, existsSync, fstatSync, openSync, read, readSync } from 'node:fs'
import { CorpusError } from './errors.ts'
import { bytesPerToken, indexHeaderBytes, pointersAt, readIndexHeader, type TokenType } from './megatron.ts'
import { joinStreams, partOf, type TokenStream } from './stream.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * Files of tokens, read by the window: nothing is kept but an open file. Three kinds end in `.bin`: Megatron's, with an `.idx` beside it; llm.c's,
 * which begins with 256 words of 32 bits (number of the kind, version, tokens); and nanoGPT's, 16-bit tokens and nothing else.
 */

/** How the names of such files end. */
export const shardKind = '.bin'

/** Tokens of a file: where they begin, how many, how wide. */
interface Layout {
  readonly at: number
  readonly tokens: number
  readonly type: TokenType
  /** Index of Megatron. */
  readonly index?: {
    readonly path: string
    readonly sequences: number
    readonly documents: number
    readonly pointersAt: number
  }
}

const llmcHeaderBytes = 1024

/** llm.c's numbers of a kind of file, and its tokens. Source: llm.c, dev/data/data_common.py. */
const llmcKinds: Readonly<Record<number, TokenType>> = { 20240520: 'uint16', 20240801: 'int32' }

/** Bytes of an open file, fewer at its end. */
function bytesAt(file: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  let done = 0
  while (done < length) {
    const count = readSync(file, bytes, done, length - done, position + done)
    if (count === 0) break
    done += count
  }
  return bytes.subarray(0, done)
}

function open(path: string): { file: number; size: number } {
  try {
    const file = openSync(path, 'r')
    return { file, size: fstatSync(file).size }
  } catch (error) {
    throw new CorpusError(`${path} cannot be read: ${(error as Error).message}`)
  }
}

const indexOf = (path: string): string => path.replace(/\.bin$/, '.idx')

function megatronLayout(path: string, size: number): Layout {
  const index = open(indexOf(path))
  try {
    return indexedLayout(path, size, index.file, index.size)
  } finally {
    closeSync(index.file)
  }
}

function indexedLayout(path: string, size: number, file: number, indexSize: number): Layout {
  const header = readIndexHeader(indexOf(path), bytesAt(file, 0, indexHeaderBytes), indexSize)
  const { type, sequences, documents } = header
  const width = bytesPerToken[type]
  let tokens = 0
  if (sequences > 0) {
    const begin = Number(bytesAt(file, pointersAt(header) + (sequences - 1) * 8, 8).readBigInt64LE())
    tokens = begin / width + bytesAt(file, pointersAt(header) - 4, 4).readInt32LE()
  }
  if (tokens * width !== size)
    throw new CorpusError(
      `${path} is damaged or truncated: found ${size} bytes, wanted ${tokens * width} as its index says`,
    )
  return { at: 0, tokens, type, index: { path: indexOf(path), sequences, documents, pointersAt: pointersAt(header) } }
}

function llmcLayout(path: string, head: Buffer, type: TokenType, size: number): Layout {
  const tokens = head.length < 12 ? 0 : head.readUInt32LE(8)
  const wanted = llmcHeaderBytes + tokens * bytesPerToken[type]
  if (size !== wanted)
    throw new CorpusError(
      `${path} is damaged or truncated: found ${size} bytes, wanted ${wanted} for the ${tokens} tokens that its header says`,
    )
  return { at: llmcHeaderBytes, tokens, type }
}

function layoutOf(path: string, file: number, size: number): Layout {
  if (existsSync(indexOf(path))) return megatronLayout(path, size)
  const head = bytesAt(file, 0, llmcHeaderBytes)
  const llmc = head.length >= 4 ? llmcKinds[head.readUInt32LE(0)] : undefined
  if (llmc) return llmcLayout(path, head, llmc, size)
  if (size % 2 !== 0)
    throw new CorpusError(
      `${path} is no file of tokens: it has no .idx beside it, no header of llm.c, and an odd number of bytes (${size})`,
    )
  return { at: 0, tokens: size / 2, type: 'uint16' }
}

/** What is read ahead goes here and is forgotten: the system keeps it. */
const ignored = Buffer.alloc(2 ** 20)

/** Pieces of a file that are looked at when it is opened, spread evenly. */
const probes = 16
const probeTokens = 2048

/** One file of tokens. */
class Shard implements TokenStream {
  readonly length: number
  readonly documents: number | undefined
  readonly #path: string
  readonly #file: number
  readonly #layout: Layout
  #bytes = Buffer.alloc(0)

  constructor(path: string) {
    const { file, size } = open(path)
    this.#path = path
    this.#file = file
    this.#layout = layoutOf(path, file, size)
    this.length = this.#layout.tokens
    this.documents = this.#layout.index?.documents
  }

  read(from: number, count: number, into: Int32Array, at: number): void {
    const { type, at: begin } = this.#layout
    const width = bytesPerToken[type]
    if (this.#bytes.length < count * width) this.#bytes = Buffer.alloc(count * width)
    const bytes = this.#bytes
    for (let done = 0; done < count * width; ) {
      const got = readSync(this.#file, bytes, done, count * width - done, begin + from * width + done)
      if (got === 0) throw new CorpusError(`${this.#path} has become shorter while it was read`)
      done += got
    }
    const tokens =
      type === 'uint16'
        ? new Uint16Array(bytes.buffer, bytes.byteOffset, count)
        : new Int32Array(bytes.buffer, bytes.byteOffset, count)
    into.set(tokens, at)
  }

  prefetch(from: number, count: number): void {
    const { type, at } = this.#layout
    const length = Math.min(count * bytesPerToken[type], ignored.length)
    read(this.#file, ignored, 0, length, at + from * bytesPerToken[type], () => {})
  }

  #probe(visit: (tokens: Int32Array) => void): void {
    const count = Math.min(probeTokens, this.length)
    const tokens = new Int32Array(count)
    for (let i = 0; i < probes; i++) {
      this.read(Math.floor(((this.length - count) * i) / (probes - 1)), count, tokens, 0)
      visit(tokens)
    }
  }

  identify(hash: Hash): void {
    hash.update(`${this.#layout.type} ${this.length} ${this.documents}`)
    this.#probe(tokens => hash.update(new Uint8Array(tokens.buffer)))
  }

  /** @throws CorpusError if tokens of the file are none of the tokenizer's. */
  check(tokenizer: Tokenizer): void {
    this.#probe(tokens => {
      const wrong = tokens.find(token => token < 0 || token >= tokenizer.tokens)
      if (wrong !== undefined)
        throw new CorpusError(
          `${this.#path} has token ${wrong}, wanted below ${tokenizer.tokens}, the tokens of data.tokenizer ${tokenizer.name}: it was made with another tokenizer or is no file of tokens`,
        )
    })
  }

  /** The first token at or after `from` that begins a document: by the index, or a separator. */
  documentStart(from: number, separator: number): number | undefined {
    const { index, type } = this.#layout
    return index ? this.#indexedStart(index, from * bytesPerToken[type]) : this.#separatorAfter(from, separator)
  }

  /** Bisects the positions in the index. */
  #indexedStart({ path, sequences, pointersAt }: NonNullable<Layout['index']>, byte: number): number | undefined {
    const { file } = open(path)
    try {
      const pointer = (i: number) => Number(bytesAt(file, pointersAt + i * 8, 8).readBigInt64LE())
      let [low, high] = [0, sequences]
      while (low < high) {
        const middle = (low + high) >> 1
        if (pointer(middle) < byte) low = middle + 1
        else high = middle
      }
      return low < sequences ? pointer(low) / bytesPerToken[this.#layout.type] : undefined
    } finally {
      closeSync(file)
    }
  }

  #separatorAfter(from: number, separator: number): number | undefined {
    const tokens = new Int32Array(2 ** 16)
    for (let at = from; at < this.length; at += tokens.length) {
      const count = Math.min(tokens.length, this.length - at)
      this.read(at, count, tokens, 0)
      const found = tokens.subarray(0, count).indexOf(separator)
      if (found >= 0) return at + found
    }
    return undefined
  }
}

export type { Shard }

/**
 * Opens a file of tokens.
 * @throws CorpusError naming what is truncated, of another kind, or not of this tokenizer.
 */
export function openShard(path: string, tokenizer: Tokenizer): Shard {
  const shard = new Shard(path)
  if (shard.length === 0) throw new CorpusError(`${path} holds no tokens`)
  shard.check(tokenizer)
  return shard
}

/** Share of the tokens that is held out, and the most that it comes to. */
const heldOutShare = 0.01
const mostHeldOut = 2 ** 24

/**
 * Holds out the last documents of shards: a hundredth of the tokens, at most 16.8 million. Of one document without end, its last tokens.
 */
export function holdOutTail(
  shards: readonly Shard[],
  separator: number,
): { training: TokenStream; validation: TokenStream } {
  const all = joinStreams(shards)
  const from = all.length - Math.min(mostHeldOut, Math.ceil(all.length * heldOutShare))
  let begin = 0
  let cut: number | undefined
  for (const shard of shards) {
    const within = Math.max(0, from - begin)
    const start = within < shard.length ? shard.documentStart(within, separator) : undefined
    if (start !== undefined) {
      cut = begin + start
      break
    }
    begin += shard.length
  }
  cut ??= from
  return { training: partOf(all, 0, cut), validation: partOf(all, cut, all.length) }
}
