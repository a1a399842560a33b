/** A text that stands alone: an address, a chapter, a file, a line of a .jsonl. */
export interface Document {
  /** Where it comes from, for messages. */
  readonly name: string
  /** UTF-8. */
  readonly text: Uint8Array
}

/** Documents in their order in the corpus. */
export interface Split {
  readonly training: Document[]
  readonly validation: Document[]
}

/** With at least this many documents every 50th is held out; with fewer, the last twentieth of each. */
const manyDocuments = 100

/** The last position at or before `at` that does not cut a UTF-8 character. */
function characterStart(text: Uint8Array, at: number): number {
  let position = at
  while (position > 0 && (text[position]! & 0xc0) === 0x80) position--
  return position
}

/**
 * Holds documents out for validation, always the same ones: of 100 documents or more every 50th (2 %), of fewer the last
 * twentieth of each text (5 %).
 */
export function holdOut(documents: readonly Document[]): Split {
  if (documents.length >= manyDocuments)
    return {
      training: documents.filter((_, index) => index % 50 !== 49),
      validation: documents.filter((_, index) => index % 50 === 49),
    }
  const split: Split = { training: [], validation: [] }
  for (const { name, text } of documents) {
    const cut = characterStart(text, Math.floor(text.length * 0.95))
    if (cut > 0) split.training.push({ name, text: text.subarray(0, cut) })
    if (cut < text.length) split.validation.push({ name, text: text.subarray(cut) })
  }
  return split
}
