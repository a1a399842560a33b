/**
 * `starts` of rows = batch * sequence tokens when state and history do not cross the boundaries of documents: for each row the
 * position, within its own sequence, of the first token of its document. `lengths` are those of the documents of every sequence in turn; the last
 * one is cut at, or stretched to, the end of its sequence.
 */
export function documentStarts(rows: number, sequence: number, lengths: readonly number[]): Int32Array {
  const starts = new Int32Array(rows)
  for (let first = 0, document = 0; first < rows; first += sequence)
    for (let begin = 0; begin < sequence; document++) {
      const end = Math.min(sequence, begin + lengths[document % lengths.length]!)
      starts.fill(begin, first + begin, first + end)
      begin = end
    }
  return starts
}
