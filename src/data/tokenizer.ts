/** Turns text into token numbers and back. */
export interface Tokenizer {
  readonly name: string
  /** Numbers that `encode` and the separator use: 0 .. tokens-1. */
  readonly tokens: number
  /** `tokens` padded to a multiple of 16: rows of the embedding. */
  readonly vocab: number
  /** Stands between documents; it encodes no text. */
  readonly separator: number
  /** Text, or its UTF-8 bytes, without separators. */
  encode(text: string | Uint8Array): Uint16Array
  /** Separators and numbers from `tokens` on decode to nothing; invalid UTF-8 to U+FFFD. */
  decode(tokens: ArrayLike<number>): string
  /** Bytes of UTF-8 text that each token stands for, indexed by token: 0 for the separator. */
  bytesOf(token: number): number
}

/** A token is a byte of UTF-8; 256 separates documents. */
const bytes: Tokenizer = {
  name: 'bytes',
  tokens: 257,
  vocab: 272,
  separator: 256,
  encode: text => Uint16Array.from(typeof text === 'string' ? Buffer.from(text, 'utf8') : text),
  decode: tokens => Buffer.from(Array.from(tokens).filter(token => token < 256)).toString('utf8'),
  bytesOf: token => (token < 256 ? 1 : 0),
}

/** Every tokenizer by name. */
export const tokenizers: Readonly<Record<string, Tokenizer>> = { bytes }
