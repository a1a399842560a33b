import { placedUnits, readUnit } from './read_unit.ts'
import type { Words } from './splits.ts'

/** How often each word of files occurs, cut by a pattern: what merges are trained on. */

export interface WordCounts {
  readonly counts: ReadonlyMap<string, number>
  /** UTF-8 bytes of text. */
  readonly bytes: number
}

/** @throws CorpusError naming the file, and its line or row, that cannot be used. */
export async function countWords(
  paths: readonly string[],
  column: string,
  words: Words,
  progress: (bytes: number) => void = () => {},
): Promise<WordCounts> {
  const counts = new Map<string, number>()
  const add = (text: string, from: number, to: number) => {
    const word = text.slice(from, to)
    const count = counts.get(word)
    // A copy, because a slice would keep all of the text.
    counts.set(count === undefined ? Buffer.from(word, 'utf8').toString('utf8') : word, (count ?? 0) + 1)
  }
  let bytes = 0
  for (const path of paths) {
    for await (const { unit, place } of placedUnits(path, column)) {
      const { texts } = await readUnit(unit, place)
      for (const text of texts) {
        const decoded = typeof text === 'string' ? text : Buffer.from(text).toString('utf8')
        bytes += Buffer.byteLength(decoded)
        words(decoded, add)
      }
      progress(bytes)
    }
  }
  return { counts, bytes }
}
