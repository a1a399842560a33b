import { isUtf8 } from 'node:buffer'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { extname, join, sep } from 'node:path'
import type { Document } from './document.ts'
import { CorpusError } from './errors.ts'

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

const keysOf = (value: unknown): string =>
  typeof value === 'object' && value !== null
    ? `an object with ${Object.keys(value).join(', ') || 'no keys'}`
    : typeof value

function jsonLines(path: string, bytes: Buffer): Document[] {
  const documents: Document[] = []
  let line = 0
  for (let from = 0; from < bytes.length; ) {
    line++
    const newline = bytes.indexOf(10, from)
    const to = newline < 0 ? bytes.length : newline
    const json = bytes.toString('utf8', from, to).trim()
    from = to + 1
    if (json === '') continue
    let value: unknown
    try {
      value = JSON.parse(json)
    } catch {
      throw new CorpusError(`${path}, line ${line}: found text that is not JSON, wanted {"text": "..."}`)
    }
    const text = (value as { text?: unknown } | null)?.text
    if (typeof text !== 'string')
      throw new CorpusError(
        `${path}, line ${line}: found ${text === undefined ? keysOf(value) : `"text" as ${typeof text}`}, wanted {"text": "..."}`,
      )
    if (text !== '') documents.push({ name: `${path}, line ${line}`, text: Buffer.from(text, 'utf8') })
  }
  return documents
}

/** How each kind of file becomes documents. */
const readers: Readonly<Record<string, (path: string, bytes: Buffer) => Document[]>> = {
  '.txt': plainText,
  '.jsonl': jsonLines,
}
const kinds = Object.keys(readers).join(' or ')

const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** Files under a folder, at any depth, in the order of their names. */
const filesUnder = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map(name => join(folder, name))
    .filter(path => statSync(path).isFile())
    .sort(byName)

/** `*` and `?` stay within one folder, `**` crosses folders. */
function patternOf(glob: string): RegExp {
  const source = glob.replace(/\*\*\/|\*\*|[*?]|[.+^${}()|[\]\\]/g, token => {
    if (token === '**/') return '(?:.*/)?'
    if (token === '**') return '.*'
    if (token === '*') return '[^/]*'
    return token === '?' ? '[^/]' : `\\${token}`
  })
  return new RegExp(`^${source}$`)
}

function matching(glob: string): string[] {
  const parts = join(glob).split(sep)
  const wild = parts.findIndex(part => /[*?]/.test(part))
  const folder = parts.slice(0, wild).join(sep) || (glob.startsWith(sep) ? sep : '.')
  const pattern = patternOf(parts.join('/'))
  const found = existsSync(folder) ? filesUnder(folder).filter(path => pattern.test(path.split(sep).join('/'))) : []
  if (found.length === 0) throw new CorpusError(`data.files: no file matches ${glob}`)
  return found
}

/** Files named by a path, a folder or a pattern. */
function expand(name: string): string[] {
  if (existsSync(name)) {
    if (!statSync(name).isDirectory()) return [name]
    const found = filesUnder(name).filter(path => readers[extname(path)])
    if (found.length === 0) throw new CorpusError(`data.files: folder ${name} has no ${kinds} file`)
    return found
  }
  if (/[*?]/.test(name)) return matching(name)
  throw new CorpusError(`data.files: ${name} does not exist (looked from ${process.cwd()})`)
}

function readDocuments(path: string): Document[] {
  const reader = readers[extname(path)]
  if (!reader) throw new CorpusError(`data.files: ${path} is not a ${kinds} file`)
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

/**
 * The user's texts: a .txt is one document, a line {"text": "..."} of a .jsonl another. Folders are read at any depth and patterns
 * (`*`, `?`, `**`) expanded, both in the order of names; no file is read twice.
 * @throws CorpusError naming the file, and the line or byte, that cannot be used.
 */
export function fileDocuments(files: string | readonly string[]): Document[] {
  const names = typeof files === 'string' ? [files] : files
  return [...new Set(names.flatMap(expand))].flatMap(readDocuments)
}
