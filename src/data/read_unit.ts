import { isUtf8 } from 'node:buffer'
import { asyncBufferFromFile, parquetRead } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { CorpusError } from './errors.ts'
import { textOfLine } from './files.ts'
import { type LinesUnit, type OnRead, type RowsUnit, type TextUnit, type Unit, unitsOf, withParquet } from './units.ts'

/** Where a unit is from, for messages. */
export interface UnitPlace {
  readonly path: string
  /** Lines of the file before it. */
  readonly line: number
  /** Key of a .jsonl, column of a .parquet. */
  readonly column: string
}

/** The documents of a unit. */
export interface UnitTexts {
  /** None is empty. Bytes are those of a file, whether they are UTF-8 or not. */
  readonly texts: readonly (string | Uint8Array)[]
  /** Whether the last document goes on in the next unit. */
  readonly goesOn: boolean
  /** Documents, or pieces of them, that are not UTF-8. */
  readonly invalid: number
}

const readText = ({ bytes, last }: TextUnit): UnitTexts => ({
  texts: bytes.length > 0 ? [bytes] : [],
  goesOn: !last,
  invalid: isUtf8(bytes) ? 0 : 1,
})

function readLines({ bytes }: LinesUnit, { path, line, column }: UnitPlace): UnitTexts {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isValid = isUtf8(buffer)
  const texts: string[] = []
  let lines = 0
  let invalid = 0
  for (let from = 0; from < buffer.length; ) {
    const newline = buffer.indexOf(10, from)
    const to = newline < 0 ? buffer.length : newline
    lines++
    const text = textOfLine(path, line + lines, buffer.toString('utf8', from, to), column)
    if (text) texts.push(text)
    if (!isValid && !isUtf8(buffer.subarray(from, to))) invalid++
    from = to + 1
  }
  return { texts, goesOn: false, invalid }
}

function readRows({ rowStart, rowEnd }: RowsUnit, { path, column }: UnitPlace): Promise<UnitTexts> {
  return withParquet(path, async () => {
    const file = await asyncBufferFromFile(path)
    const texts: string[] = []
    const onComplete = (rows: unknown[][]) => {
      for (const [i, [text]] of rows.entries()) {
        if (text === null || text === undefined || text === '') continue
        if (typeof text !== 'string')
          throw new CorpusError(`${path}, row ${rowStart + i}: found "${column}" as ${typeof text}, wanted text`)
        texts.push(text)
      }
    }
    await parquetRead({ file, columns: [column], rowStart, rowEnd, compressors, onComplete })
    return { texts, goesOn: false, invalid: 0 }
  })
}

type Reader<Kind extends Unit> = (unit: Kind, place: UnitPlace) => UnitTexts | Promise<UnitTexts>

/** How each kind of unit is read. */
const readers: { readonly [Kind in Unit['kind']]: Reader<Extract<Unit, { kind: Kind }>> } = {
  text: readText,
  lines: readLines,
  rows: readRows,
}

/** @throws CorpusError naming the file, and its line or row, that cannot be used. */
export async function readUnit(unit: Unit, place: UnitPlace): Promise<UnitTexts> {
  const read = readers[unit.kind] as Reader<Unit>
  return read(unit, place)
}

function countLines(bytes: Uint8Array): number {
  let lines = 0
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines++
  return lines
}

/** The units of a file, each with its place. */
export async function* placedUnits(
  path: string,
  column: string,
  onRead?: OnRead,
): AsyncGenerator<{ readonly unit: Unit; readonly place: UnitPlace }> {
  let line = 0
  for await (const unit of unitsOf(path, column, onRead)) {
    const lines = unit.kind === 'lines' ? countLines(unit.bytes) : 0
    yield { unit, place: { path, line, column } }
    line += lines
  }
}
