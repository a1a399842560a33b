import { createHash } from 'node:crypto'
import { specialToken } from './added_tokens.ts'
import { byteCharacters } from './byte_level.ts'

/** Token numbers: 16 bits each if the vocabulary has at most 65,536. */
export type TokenArray = Uint16Array | Int32Array

/** Turns text into token numbers and back. */
export interface Tokenizer {
  /** What a config's `data.tokenizer` names it by. */
  readonly name: string
  /** Numbers that `encode` and the separator use: 0 .. tokens-1. */
  readonly tokens: number
  /** `tokens` padded to a multiple of 16: rows of the embedding. */
  readonly vocab: number
  /** Stands between documents; it encodes no text. */
  readonly separator: number
  /** The separator's content in `json()`: the `eos_token` of a tokenizer_config.json. */
  readonly separatorText: string
  /** SHA-256 of `json()`: whether two tokenizers are the same, wherever their files lie. */
  readonly sha256: string
  /** Text, or its UTF-8 bytes, without separators. */
  encode(text: string | Uint8Array): TokenArray
  /** Separators and numbers from `tokens` on decode to nothing; invalid UTF-8 to U+FFFD. */
  decode(tokens: ArrayLike<number>): string
  /** Bytes of UTF-8 text that each token stands for, indexed by token: 0 for the separator. */
  bytesOf(token: number): number
  /** The text of a Hugging Face `tokenizer.json` that encodes and decodes as this does. */
  json(): string
}

export const rowsOf = (tokens: number): number => Math.ceil(tokens / 16) * 16

/** An array for tokens of a vocabulary of that size. */
export const tokenArray = (vocabulary: number, length: number): TokenArray =>
  vocabulary <= 65_536 ? new Uint16Array(length) : new Int32Array(length)

export const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

/** A `tokenizer.json` of byte-level BPE with the given vocabulary, merges and added tokens. */
export function byteLevelJson(parts: {
  readonly vocab: Readonly<Record<string, number>>
  readonly merges: readonly (readonly [string, string])[]
  readonly special: Readonly<Record<string, number>>
  /** Pattern whose matches are encoded each on its own; absent: GPT-2's, false: none. */
  readonly pattern?: string | false
  readonly ignoreMerges?: boolean
}): string {
  const { vocab, merges, special, pattern, ignoreMerges = false } = parts
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: pattern === undefined,
  }
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
  const model = {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: ignoreMerges,
    vocab,
    merges,
  }
  const added = Object.entries(special).map(([content, id]) => specialToken(content, id))
  return `${JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: typeof pattern === 'string' ? { type: 'Sequence', pretokenizers: [split, byteLevel] } : byteLevel,
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model,
  })}\n`
}

const byteSeparator = '<|separator|>'

const bytesJson = (): string =>
  byteLevelJson({
    vocab: Object.fromEntries(byteCharacters.map((character, byte) => [character, byte])),
    merges: [],
    special: { [byteSeparator]: 256 },
    pattern: false,
  })

/** A token is a byte of UTF-8; 256 separates documents. */
const bytes: Tokenizer = {
  name: 'bytes',
  tokens: 257,
  vocab: 272,
  separator: 256,
  separatorText: byteSeparator,
  sha256: sha256(bytesJson()),
  encode: text => Uint16Array.from(typeof text === 'string' ? Buffer.from(text, 'utf8') : text),
  decode: tokens => Buffer.from(Array.from(tokens).filter(token => token < 256)).toString('utf8'),
  bytesOf: token => (token < 256 ? 1 : 0),
  json: bytesJson,
}

/** Tokenizers that need no file, by name. */
export const tokenizers: Readonly<Record<string, Tokenizer>> = { bytes }
