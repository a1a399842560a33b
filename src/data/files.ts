import { isUtf8 } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { extname } from 'node:path'
import type { Document } from './document.ts'
import { CorpusError } from './errors.ts'
import { expandPaths } from './paths.ts'

/** Byte offset of the first byte that is not part of valid UTF-8; -1 if all are (RFC 3629: no surrogates, nothing overlong). */
export function invalidUtf8(bytes: Uint8Array): number {
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at]!
    const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0
    if (length === 0 || at + length > bytes.length) return at
    const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80
    const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf
    for (let i = 1; i < length; i++) {
      const byte = bytes[at + i]!
      if (byte < (i === 1 ? low : 0x80) || byte > (i === 1 ? high : 0xbf)) return at
    }
    at += length
  }
  return -1
}

function plainText(path: string, bytes: Buffer): Document[] {
  return [{ name: path, text: bytes }]
}

/** A value of JSON in words. */
export function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value !== 'object') return typeof value
  const keys = Object.keys(value)
  return `an object with ${keys.length > 8 ? `${keys.slice(0, 8).join(', ')} and others` : keys.join(', ') || 'no keys'}`
}

/**
 * The text of a line of a .jsonl; undefined if the line is blank.
 * @throws CorpusError naming file and line if it is no object with a text.
 */
export function textOfLine(path: string, line: number, source: string, column = 'text'): string | undefined {
  const json = source.trim()
  if (json === '') return undefined
  const wanted = `wanted {"${column}": "..."}`
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    throw new CorpusError(`${path}, line ${line}: found text that is not JSON, ${wanted}`)
  }
  const text = (value as Record<string, unknown> | null)?.[column]
  if (typeof text !== 'string')
    throw new CorpusError(
      `${path}, line ${line}: found ${text === undefined ? kindOf(value) : `"${column}" as ${kindOf(text)}`}, ${wanted}`,
    )
  return text
}

function jsonLines(path: string, bytes: Buffer): Document[] {
  const documents: Document[] = []
  let line = 0
  for (let from = 0; from < bytes.length; ) {
    line++
    const newline = bytes.indexOf(10, from)
    const to = newline < 0 ? bytes.length : newline
    const text = textOfLine(path, line, bytes.toString('utf8', from, to))
    from = to + 1
    if (text) documents.push({ name: `${path}, line ${line}`, text: Buffer.from(text, 'utf8') })
  }
  return documents
}

/** How each kind of file becomes documents. */
const readers: Readonly<Record<string, (path: string, bytes: Buffer) => Document[]>> = {
  '.txt': plainText,
  '.jsonl': jsonLines,
}

function readDocuments(path: string): Document[] {
  const reader = readers[extname(path)]!
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ERR_FS_FILE_TOO_LARGE')
      throw new CorpusError(`${path} has more than 2 GiB; split it into several files`)
    throw new CorpusError(`${path} cannot be read: ${message}`)
  }
  if (!isUtf8(bytes))
    throw new CorpusError(`${path} is not UTF-8: byte ${invalidUtf8(bytes)} (counted from 0) begins no valid character`)
  if (bytes.length >= 3 && bytes.readUIntBE(0, 3) === 0xefbbbf) bytes = bytes.subarray(3)
  const documents = reader(path, bytes).filter(({ text }) => text.length > 0)
  if (documents.length === 0) throw new CorpusError(`${path} is empty; a file of text is wanted`)
  return documents
}

/** Endings of files that `fileDocuments` reads. */
export const textKinds: readonly string[] = Object.keys(readers)

/**
 * The user's texts: a .txt is one document, a line {"text": "..."} of a .jsonl another.
 * @param files As `expandPaths` takes them.
 * @throws CorpusError naming the file, and the line or byte, that cannot be used.
 */
export const fileDocuments = (files: string | readonly string[]): Document[] =>
  expandPaths(files, textKinds).flatMap(readDocuments)
