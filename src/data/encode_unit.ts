import { readUnit, type UnitPlace } from './read_unit.ts'
import { type TokenArray, type Tokenizer, tokenArray } from './tokenizer.ts'
import type { Unit } from './units.ts'

/** What a unit becomes. */
export interface EncodedUnit {
  /** Of all its documents, a separator after each that ends. */
  readonly tokens: TokenArray
  /** Tokens of each document, separator included; of the last, what there is of it. */
  readonly lengths: Int32Array
  /** Whether the last document goes on in the next unit. */
  readonly goesOn: boolean
  /** UTF-8 bytes of the documents. */
  readonly textBytes: number
  /** Documents, or pieces of them, that are not UTF-8. */
  readonly invalid: number
}

/** @throws CorpusError naming the file, and its line or row, that cannot be used. */
export async function encodeUnit(unit: Unit, place: UnitPlace, tokenizer: Tokenizer): Promise<EncodedUnit> {
  const { texts, goesOn, invalid } = await readUnit(unit, place)
  const parts = texts.map(text => tokenizer.encode(text))
  const ends = (document: number) => !goesOn || document < texts.length - 1
  const lengths = Int32Array.from(parts, ({ length }, document) => length + (ends(document) ? 1 : 0))
  const tokens: TokenArray = tokenArray(
    tokenizer.tokens,
    lengths.reduce((sum, length) => sum + length, 0),
  )
  let at = 0
  for (const [document, part] of parts.entries()) {
    tokens.set(part, at)
    at += part.length
    if (ends(document)) tokens[at++] = tokenizer.separator
  }
  const textBytes = texts.reduce(
    (sum, text) => sum + (typeof text === 'string' ? Buffer.byteLength(text) : text.length),
    0,
  )
  return { tokens, lengths, goesOn, textBytes, invalid }
}
