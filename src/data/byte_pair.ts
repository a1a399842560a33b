import { type AddedToken, splitAddedTokens } from './added_tokens.ts'
import { CorpusError } from './errors.ts'
import type { Words } from './splits.ts'
import { rowsOf, sha256, type TokenArray, type Tokenizer, tokenArray } from './tokenizer.ts'
import { WordEncoder, type WordModel } from './words.ts'

/** A byte-level BPE vocabulary, wherever it was read. */
export interface BytePairVocabulary extends WordModel {
  readonly name: string
  /** Bytes that each token stands for; holes are numbers that nothing uses. */
  readonly pieces: readonly (Uint8Array | undefined)[]
  readonly added: readonly AddedToken[]
  readonly separator: number
  readonly normalize?: (text: string) => string
  readonly words: Words
  /** The text of a `tokenizer.json` of it. */
  readonly json: () => string
}

/** Text is cut at added tokens, normalised, cut into words, and each word merged. */
export function bytePairTokenizer(vocabulary: BytePairVocabulary): Tokenizer {
  const { name, pieces, added, separator, normalize, words, json } = vocabulary
  const encoder = new WordEncoder(vocabulary)
  const raw = splitAddedTokens(added.filter(({ normalized }) => !normalized))
  const normalised = splitAddedTokens(
    added
      .filter(token => token.normalized)
      .map(token => ({ ...token, content: normalize ? normalize(token.content) : token.content })),
  )
  const token = (id: number) => encoder.appendToken(id)
  const cut = (text: string) => words(text, encoder.append)
  const plain = (text: string) => normalised(normalize ? normalize(text) : text, cut, token)
  const tokens = pieces.length
  const silent = new Set([separator, ...added.filter(({ special }) => special).map(({ id }) => id)])
  const lengths = Int32Array.from(pieces, (piece, id) => (id === separator ? 0 : (piece?.length ?? 0)))
  let identity: string | undefined

  return {
    name,
    tokens,
    vocab: rowsOf(tokens),
    separator,
    separatorText: Buffer.from(pieces[separator]!).toString('utf8'),
    get sha256() {
      identity ??= sha256(json())
      return identity
    },
    encode(text): TokenArray {
      try {
        raw(typeof text === 'string' ? text : decodeUtf8(text), plain, token)
      } catch (error) {
        encoder.take()
        // Expressions keep a note of every character of a match, and words are merged within memory of a fixed size.
        if (!(error instanceof RangeError)) throw error
        throw new CorpusError(
          `tokenizer ${name}: a text has a word of millions of characters, which is too long to encode`,
        )
      }
      const encoded = encoder.take()
      const result = tokenArray(tokens, encoded.length)
      result.set(encoded)
      return result
    },
    decode(ids) {
      const shown = Array.from(ids).filter(id => !silent.has(id) && pieces[id] !== undefined)
      return Buffer.concat(shown.map(id => pieces[id]!)).toString('utf8')
    },
    bytesOf: id => lengths[id] ?? 0,
    json,
  }
}

/** Bytes that are no UTF-8 become U+FFFD, one for each longest prefix of a character, as Python's `errors="replace"` has it. */
const decodeUtf8 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
