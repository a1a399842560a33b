import { createHash } from 'node:crypto'
import { type Document, holdOut, type Split } from './document.ts'
import { embeddedDocuments } from './embedded.ts'
import { fileDocuments } from './files.ts'
import { type Tokenizer, tokenizers } from './tokenizer.ts'

/** Packed documents: each is preceded by a separator, and one more ends the stream. */
export interface TokenStream {
  readonly tokens: Uint16Array
  readonly documents: number
  /** Bytes of UTF-8 text. */
  readonly bytes: number
}

export interface Corpus {
  readonly tokenizer: Tokenizer
  readonly training: TokenStream
  readonly validation: TokenStream
  /** SHA-256 of both streams: whether a resumed run reads the text that it began with. */
  readonly fingerprint: string
}

/** Corpora that come with the program; any other name is the user's files. */
const known: Readonly<Record<string, () => Split>> = { embedded: embeddedDocuments }

function pack(documents: readonly Document[], tokenizer: Tokenizer): TokenStream {
  const encoded = documents.map(({ text }) => tokenizer.encode(text))
  const tokens = new Uint16Array(encoded.reduce((sum, { length }) => sum + length + 1, 1))
  let at = 0
  for (const part of encoded) {
    tokens[at++] = tokenizer.separator
    tokens.set(part, at)
    at += part.length
  }
  tokens[at] = tokenizer.separator
  return { tokens, documents: documents.length, bytes: documents.reduce((sum, { text }) => sum + text.length, 0) }
}

const bytesOf = ({ tokens }: TokenStream): Uint8Array =>
  new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)

/**
 * Reads the texts of a config's `data.files` and encodes them, validation apart from training.
 * @throws CorpusError naming the file that is missing, empty or not UTF-8.
 */
export function openCorpus(files: string | readonly string[], tokenizerName: string): Corpus {
  const tokenizer = tokenizers[tokenizerName]
  if (!tokenizer)
    throw new Error(`tokenizer "${tokenizerName}" is unknown; use one of ${Object.keys(tokenizers).join(', ')}`)
  const embedded = typeof files === 'string' && Object.hasOwn(known, files) ? known[files] : undefined
  const split = embedded ? embedded() : holdOut(fileDocuments(files))
  const training = pack(split.training, tokenizer)
  const validation = pack(split.validation, tokenizer)
  const fingerprint = createHash('sha256').update(bytesOf(training)).update(bytesOf(validation)).digest('hex')
  return { tokenizer, training, validation, fingerprint }
}
