import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { UserError } from '../config/errors.ts'
import { type GgufType, ggufTypes } from './gguf.ts'

/** Reading the header of a GGUF file: src/export/gguf.ts says what it is. A file that says what cannot be is refused. */

export interface GgufEntry {
  readonly type: GgufType
  /** The innermost dimension last. */
  readonly shape: readonly number[]
  /** First byte in the file, and the one after the last. */
  readonly start: number
  readonly end: number
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, unknown>
  readonly tensors: ReadonlyMap<string, GgufEntry>
}

/** Sizes of GGUF's number types and how each is read, by number. */
const numbers: Readonly<Record<number, { size: number; read: (view: DataView, at: number) => number | bigint }>> = {
  0: { size: 1, read: (view, at) => view.getUint8(at) },
  1: { size: 1, read: (view, at) => view.getInt8(at) },
  2: { size: 2, read: (view, at) => view.getUint16(at, true) },
  3: { size: 2, read: (view, at) => view.getInt16(at, true) },
  4: { size: 4, read: (view, at) => view.getUint32(at, true) },
  5: { size: 4, read: (view, at) => view.getInt32(at, true) },
  6: { size: 4, read: (view, at) => view.getFloat32(at, true) },
  7: { size: 1, read: (view, at) => view.getUint8(at) },
  10: { size: 8, read: (view, at) => view.getBigUint64(at, true) },
  11: { size: 8, read: (view, at) => view.getBigInt64(at, true) },
  12: { size: 8, read: (view, at) => view.getFloat64(at, true) },
}
const [boolType, stringType, arrayType] = [7, 8, 9]

const fail = (message: string): never => {
  throw new UserError(message)
}

/** Takes values off the front of a header. */
class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  #take(size: number, what: string): number {
    if (size > this.#bytes.length - this.at)
      fail(
        `the header ends at byte ${this.#bytes.length}, within ${what} that would take ${size} bytes from ${this.at}`,
      )
    this.at += size
    return this.at - size
  }

  u32(what: string): number {
    return this.#view.getUint32(this.#take(4, what), true)
  }

  /** A count or size: what a number of JavaScript holds exactly. */
  u64(what: string): number {
    const value = this.#view.getBigUint64(this.#take(8, what), true)
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) fail(`${what} is ${value}, more than any file has`)
    return Number(value)
  }

  string(what: string): string {
    const length = this.u64(`the length of ${what}`)
    const at = this.#take(length, what)
    return new TextDecoder().decode(this.#bytes.subarray(at, at + length))
  }

  value(type: number, what: string, depth = 0): unknown {
    if (type === stringType) return this.string(what)
    if (type === arrayType && depth === 0) {
      const [element, length] = [this.u32(what), this.u64(what)]
      const least = numbers[element]?.size ?? 8
      if (length * least > this.#bytes.length - this.at)
        fail(`${what} is a list of ${length}, but only ${this.#bytes.length - this.at} bytes follow`)
      return Array.from({ length }, () => this.value(element, what, 1))
    }
    const number = numbers[type] ?? fail(`${what} has the unknown type ${type}`)
    const value = number.read(this.#view, this.#take(number.size, what))
    return type === boolType ? value !== 0 : value
  }
}

const typeOf = (id: number, name: string): GgufType =>
  (Object.keys(ggufTypes) as GgufType[]).find(type => ggufTypes[type].id === id) ??
  fail(`tensor ${name} has the type ${id}, of which nothing is known here`)

/**
 * @param bytes the file, or as much of its beginning as holds the header.
 * @param fileBytes size of the whole file.
 * @throws UserError naming what is wrong.
 */
export function parseGguf(bytes: Uint8Array, fileBytes: number): GgufHeader {
  const reader = new Reader(bytes)
  if (fileBytes < 24 || new TextDecoder().decode(bytes.subarray(0, 4)) !== 'GGUF') fail('it does not begin with "GGUF"')
  reader.at = 4
  const version = reader.u32('the version')
  if (version !== 2 && version !== 3) fail(`its version is ${version}, wanted 2 or 3`)
  const [count, pairs] = [reader.u64('the number of tensors'), reader.u64('the number of keys')]
  // The shortest entry of either kind takes this much.
  if (count * 24 + pairs * 13 > bytes.length)
    fail(`it says that it has ${count} tensors and ${pairs} keys, more than its ${fileBytes} bytes hold`)
  const metadata = new Map<string, unknown>()
  for (let i = 0; i < pairs; i++) {
    const key = reader.string(`key ${i} of ${pairs}`)
    if (metadata.has(key)) fail(`the key ${key} is there twice`)
    metadata.set(key, reader.value(reader.u32(key), key))
  }
  const entries: { name: string; type: GgufType; shape: number[]; offset: number }[] = []
  const seen = new Set<string>()
  for (let i = 0; i < count; i++) {
    const name = reader.string(`the name of tensor ${i} of ${count}`)
    if (seen.has(name)) fail(`the tensor ${name} is there twice`)
    seen.add(name)
    const dimensions = reader.u32(name)
    if (dimensions > 4) fail(`tensor ${name} has ${dimensions} dimensions, more than the 4 that there are`)
    const shape = Array.from({ length: dimensions }, () => reader.u64(`a size of ${name}`)).reverse()
    entries.push({ name, shape, type: typeOf(reader.u32(name), name), offset: reader.u64(`the place of ${name}`) })
  }
  const alignment = metadata.get('general.alignment') ?? 32
  if (typeof alignment !== 'number' || alignment < 1) fail(`general.alignment is ${alignment}, wanted a whole number`)
  const start = Math.ceil(reader.at / (alignment as number)) * (alignment as number)
  return { metadata, tensors: placed(entries, start, fileBytes) }
}

function placed(
  entries: readonly { name: string; type: GgufType; shape: readonly number[]; offset: number }[],
  dataStart: number,
  fileBytes: number,
): ReadonlyMap<string, GgufEntry> {
  const tensors = new Map<string, GgufEntry>()
  let covered = dataStart
  for (const { name, type, shape, offset } of entries.toSorted((a, b) => a.offset - b.offset)) {
    const { block, bytes } = ggufTypes[type]
    if ((shape.at(-1) ?? 1) % block !== 0)
      fail(`tensor ${name} has rows of ${shape.at(-1)} elements, no whole blocks of ${block}`)
    const size = shape.reduce((product, n) => product * n, 1)
    const begin = dataStart + offset
    const end = begin + (size / block) * bytes
    if (end > fileBytes) fail(`tensor ${name} ends at byte ${end}, but the file has ${fileBytes}`)
    if (begin < covered) fail(`tensor ${name} overlaps the one before it at byte ${begin}`)
    covered = end
    tensors.set(name, { type, shape, start: begin, end })
  }
  return tensors
}

/** No vocabulary makes a longer header. */
const longestHeader = 2 ** 28

/** @throws UserError starting with the path; system errors as they are. */
export function readGgufHeader(path: string): GgufHeader {
  const file = openSync(path, 'r')
  try {
    const { size } = fstatSync(file)
    const bytes = new Uint8Array(Math.min(size, longestHeader))
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(file, bytes, done, bytes.length - done, done)
      if (count === 0) fail(`ends at byte ${done}`)
      done += count
    }
    return parseGguf(bytes, size)
  } catch (error) {
    if (error instanceof UserError) throw new UserError(`${path} is no GGUF file that can be read: ${error.message}`)
    throw error
  } finally {
    closeSync(file)
  }
}
