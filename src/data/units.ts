import { asyncBufferFromFile, parquetMetadataAsync, parquetSchema } from 'hyparquet'
import { CorpusError } from './errors.ts'
import { compressedKinds, plainName, readInput } from './input.ts'

/**
 * A corpus is encoded in units: what one worker takes at once. How files are cut into units depends on their bytes alone, so that the work can
 * be taken up again at any of them.
 */

/** Part of a text file: a piece of its one document. */
export interface TextUnit {
  readonly kind: 'text'
  readonly bytes: Uint8Array
  /** Whether the document ends here. */
  readonly last: boolean
}

/** Whole lines of a .jsonl. */
export interface LinesUnit {
  readonly kind: 'lines'
  readonly bytes: Uint8Array
}

/** A row group of a .parquet, which the worker reads by itself. */
export interface RowsUnit {
  readonly kind: 'rows'
  readonly rowStart: number
  readonly rowEnd: number
}

export type Unit = TextUnit | LinesUnit | RowsUnit

const textBytes = 4 * 2 ** 20
const linesBytes = 2 ** 18

const isLetter = (byte: number): boolean => (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a)
const isSpace = (byte: number): boolean => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d)
/** First byte of a character from U+4000 to U+9FFF. */
const beginsIdeograph = (byte: number): boolean => byte >= 0xe4 && byte <= 0xe9
/** U+3001, U+3002 and U+FF0C: the comma and the full stop of Chinese and Japanese. */
const isStop = (a: number, b: number, c: number): boolean =>
  (a === 0xe3 && b === 0x80 && (c === 0x81 || c === 0x82)) || (a === 0xef && b === 0xbc && c === 0x8c)

/**
 * Where a text of more than `limit` bytes is cut so that its halves encode as the whole does: after a letter, before white space or a stop, where
 * a word ends in every pattern in use; in a text that has no such place, before any character.
 */
export function cutText(bytes: Uint8Array, limit: number): number {
  const least = Math.floor(limit / 2)
  for (let at = limit; at > least; at--) {
    const next = bytes[at]!
    if (isSpace(next) && (isLetter(bytes[at - 1]!) || beginsIdeograph(bytes[at - 3]!))) return at
    if (beginsIdeograph(bytes[at - 3]!) && isStop(next, bytes[at + 1]!, bytes[at + 2]!)) return at
  }
  let at = limit
  while (at > least && (bytes[at]! & 0xc0) === 0x80) at--
  return at
}

/** Told how many bytes of a file were read since it was told last. */
export type OnRead = (bytes: number) => void

/** Cuts a stream of bytes: `cut` says where, given more than `limit` bytes, or 0 if it must see more. */
async function* pieces(
  path: string,
  onRead: OnRead,
  limit: number,
  cut: (bytes: Uint8Array) => number,
): AsyncGenerator<{ bytes: Uint8Array; last: boolean }> {
  const most = limit + 8
  let held: Uint8Array[] = []
  let length = 0
  let wanted = most
  let isFirst = true
  /** Without the mark that begins a file of UTF-8 at times. */
  const piece = (bytes: Uint8Array, last: boolean) => {
    const isMarked = isFirst && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf
    isFirst = false
    // A copy of its own, because a thread takes its memory.
    return { bytes: new Uint8Array(isMarked ? bytes.subarray(3) : bytes), last }
  }
  /** Pieces of what is held, as long as more than one can be told. */
  function* whole() {
    while (length >= wanted) {
      const bytes = held.length === 1 ? held[0]! : Buffer.concat(held)
      const at = cut(bytes)
      if (at > 0) yield piece(bytes.subarray(0, at), false)
      held = [bytes.subarray(at)]
      length -= at
      // A line longer than the limit is searched again only when twice as much of it is there.
      wanted = at > 0 ? most : length * 2
    }
  }
  for await (const chunk of readInput(path, onRead)) {
    held.push(chunk)
    length += chunk.length
    yield* whole()
  }
  // What a long line has put off: pieces do not depend on how the bytes came.
  wanted = most
  yield* whole()
  yield piece(Buffer.concat(held), true)
}

async function* textUnits(path: string, _: string, onRead: OnRead): AsyncGenerator<Unit> {
  for await (const { bytes, last } of pieces(path, onRead, textBytes, bytes => cutText(bytes, textBytes)))
    yield { kind: 'text', bytes, last }
}

/** After the last line break within the limit, or the first beyond it. */
function cutLines(bytes: Uint8Array): number {
  const within = bytes.lastIndexOf(10, linesBytes - 1)
  return within >= 0 ? within + 1 : bytes.indexOf(10, linesBytes) + 1
}

async function* lineUnits(path: string, _: string, onRead: OnRead): AsyncGenerator<Unit> {
  for await (const { bytes } of pieces(path, onRead, linesBytes, cutLines))
    if (bytes.length > 0) yield { kind: 'lines', bytes }
}

/** Runs what reads a .parquet; what goes wrong in it is the file's fault. */
export async function withParquet<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof CorpusError) throw error
    throw new CorpusError(`${path} is damaged or no .parquet file: ${(error as Error).message}`)
  }
}

async function* rowUnits(path: string, column: string, onRead: OnRead): AsyncGenerator<Unit> {
  const { metadata, size } = await withParquet(path, async () => {
    const file = await asyncBufferFromFile(path)
    return { metadata: await parquetMetadataAsync(file), size: file.byteLength }
  })
  const columns = parquetSchema(metadata).children.map(({ element }) => element.name)
  if (!columns.includes(column))
    throw new CorpusError(
      `${path} has no column "${column}"; its columns are ${columns.join(', ')} (--column names one)`,
    )
  let rowStart = 0
  for (const { num_rows } of metadata.row_groups) {
    const rowEnd = rowStart + Number(num_rows)
    onRead((size * Number(num_rows)) / Math.max(1, Number(metadata.num_rows)))
    if (rowEnd > rowStart) yield { kind: 'rows', rowStart, rowEnd }
    rowStart = rowEnd
  }
}

/** How each kind of file is cut. */
const cutters: Readonly<Record<string, (path: string, column: string, onRead: OnRead) => AsyncGenerator<Unit>>> = {
  '.txt': textUnits,
  '.jsonl': lineUnits,
  '.parquet': rowUnits,
}

/** Endings of the files that can be encoded. */
export const inputKinds: readonly string[] = Object.keys(cutters).flatMap(kind =>
  kind === '.parquet' ? [kind] : [kind, ...compressedKinds.map(compressed => kind + compressed)],
)

/** @param column Of a .parquet. */
export function unitsOf(path: string, column: string, onRead: OnRead = () => {}): AsyncGenerator<Unit> {
  const kind = Object.keys(cutters).find(ending => plainName(path).endsWith(ending))!
  return cutters[kind]!(path, column, onRead)
}
