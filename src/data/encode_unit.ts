import { isUtf8 } from 'node:buffer'
import { asyncBufferFromFile, parquetRead } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { CorpusError } from './errors.ts'
import { textOfLine } from './files.ts'
import { type TokenArray, type Tokenizer, tokenArray } from './tokenizer.ts'
import { type LinesUnit, type RowsUnit, type TextUnit, type Unit, withParquet } from './units.ts'

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

/** Where a unit is from, for messages. */
export interface UnitPlace {
  readonly path: string
  /** Lines of the file before it. */
  readonly line: number
  /** Key of a .jsonl, column of a .parquet. */
  readonly column: string
}

/** Gathers documents. */
class Gatherer {
  readonly #tokenizer: Tokenizer
  readonly #parts: TokenArray[] = []
  readonly #lengths: number[] = []
  #textBytes = 0

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  add(text: string | Uint8Array, ends = true): void {
    const tokens = this.#tokenizer.encode(text)
    const separator = ends ? tokenArray(this.#tokenizer.tokens, 1).fill(this.#tokenizer.separator) : undefined
    this.#parts.push(tokens, ...(separator ? [separator] : []))
    this.#lengths.push(tokens.length + (ends ? 1 : 0))
    this.#textBytes += typeof text === 'string' ? Buffer.byteLength(text) : text.length
  }

  take(rest: { goesOn?: boolean; invalid?: number }): EncodedUnit {
    const tokens = tokenArray(
      this.#tokenizer.tokens,
      this.#lengths.reduce((sum, length) => sum + length, 0),
    )
    let at = 0
    for (const part of this.#parts) {
      tokens.set(part, at)
      at += part.length
    }
    const { goesOn = false, invalid = 0 } = rest
    return { tokens, lengths: Int32Array.from(this.#lengths), goesOn, textBytes: this.#textBytes, invalid }
  }
}

function encodeText({ bytes, last }: TextUnit, gatherer: Gatherer): EncodedUnit {
  if (bytes.length > 0) gatherer.add(bytes, last)
  return gatherer.take({ goesOn: !last, invalid: isUtf8(bytes) ? 0 : 1 })
}

function encodeLines({ bytes }: LinesUnit, gatherer: Gatherer, { path, line, column }: UnitPlace): EncodedUnit {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isValid = isUtf8(buffer)
  let lines = 0
  let invalid = 0
  for (let from = 0; from < buffer.length; ) {
    const newline = buffer.indexOf(10, from)
    const to = newline < 0 ? buffer.length : newline
    lines++
    const text = textOfLine(path, line + lines, buffer.toString('utf8', from, to), column)
    if (text) gatherer.add(text)
    if (!isValid && !isUtf8(buffer.subarray(from, to))) invalid++
    from = to + 1
  }
  return gatherer.take({ invalid })
}

async function encodeRows(
  { rowStart, rowEnd }: RowsUnit,
  gatherer: Gatherer,
  { path, column }: UnitPlace,
): Promise<EncodedUnit> {
  await withParquet(path, async () => {
    const options = { file: await asyncBufferFromFile(path), columns: [column], rowStart, rowEnd, compressors }
    await parquetRead({
      ...options,
      onComplete: rows => {
        for (const [i, [text]] of rows.entries()) {
          if (text === null || text === undefined || text === '') continue
          if (typeof text !== 'string')
            throw new CorpusError(`${path}, row ${rowStart + i}: found "${column}" as ${typeof text}, wanted text`)
          gatherer.add(text)
        }
      },
    })
  })
  return gatherer.take({})
}

type Encoder<Kind extends Unit> = (
  unit: Kind,
  gatherer: Gatherer,
  place: UnitPlace,
) => EncodedUnit | Promise<EncodedUnit>

/** How each kind of unit is encoded. */
const encoders: { readonly [Kind in Unit['kind']]: Encoder<Extract<Unit, { kind: Kind }>> } = {
  text: encodeText,
  lines: encodeLines,
  rows: encodeRows,
}

/** @throws CorpusError naming the file, and its line or row, that cannot be used. */
export async function encodeUnit(unit: Unit, place: UnitPlace, tokenizer: Tokenizer): Promise<EncodedUnit> {
  const encode = encoders[unit.kind] as Encoder<Unit>
  return encode(unit, new Gatherer(tokenizer), place)
}
