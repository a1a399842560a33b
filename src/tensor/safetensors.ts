import { closeSync, fstatSync, fsyncSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'
import { fromBf16 } from '../formats/bf16.ts'
import { decodeF16 } from '../formats/f16.ts'
import { e4m3, e5m2 } from '../formats/minifloat.ts'
import { isObject } from './json.ts'

/**
 * Safetensors files: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes.
 *
 *   { "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] }, "__metadata__": { "key": "text" } }
 *
 * Offsets count from the end of the JSON; tensors cover the rest of the file without gaps or overlaps. A file that says anything
 * else is refused before memory for its tensors is allocated. Source: the format's description at github.com/huggingface/safetensors.
 */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError'
  /** The file is to be mended by the user, so the command line exits with 1. */
  readonly exitCode = 1
}

/** Bytes of an element of each dtype. */
export const safetensorsDtypes = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  BF16: 2,
  F16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U8: 1,
  I8: 1,
  BOOL: 1,
} as const
export type SafetensorsDtype = keyof typeof safetensorsDtypes

export interface TensorEntry {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  /** First byte, and the one after the last, counted from the end of the header. */
  readonly start: number
  readonly end: number
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorEntry>
  readonly metadata: Readonly<Record<string, string>>
  /** Where in the file the tensors' bytes begin. */
  readonly dataStart: number
}

export interface StoredTensor {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  /** Its bytes, little-endian, in row-major order. */
  readonly data: Uint8Array
}

export interface SafetensorsContents {
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly metadata: Readonly<Record<string, string>>
}

/** As the format's own implementation: longer headers are an attack or not this format. */
const longestHeader = 100_000_000

const fail = (message: string): never => {
  throw new SafetensorsError(message)
}

const quoted = (name: string): string => JSON.stringify(name.length > 100 ? `${name.slice(0, 100)}...` : name)

/**
 * Length of the JSON, from the first 8 bytes of a file of `fileBytes` bytes.
 * @throws SafetensorsError
 */
function headerLength(first: Uint8Array, fileBytes: number): number {
  if (first.length < 8 || fileBytes < 8)
    fail(`a safetensors file starts with 8 bytes of length, this has ${fileBytes} bytes`)
  const length = new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(longestHeader)) fail(`the header claims ${length} bytes, more than the ${longestHeader} allowed`)
  if (length > BigInt(fileBytes - 8)) fail(`the header claims ${length} bytes, but only ${fileBytes - 8} follow`)
  return Number(length)
}

/**
 * Reads and checks the header. `bytes` holds at least the header, `fileBytes` is the size of the whole file.
 * @throws SafetensorsError naming what is wrong
 */
export function parseHeader(bytes: Uint8Array, fileBytes = bytes.length): SafetensorsHeader {
  const dataStart = 8 + headerLength(bytes, fileBytes)
  if (bytes.length < dataStart) fail(`${dataStart} bytes of header wanted, got ${bytes.length}`)
  const object = parseObject(bytes.subarray(8, dataStart))
  const tensors = new Map<string, TensorEntry>()
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(object))
    if (name === '__metadata__') metadata = checkMetadata(value)
    else tensors.set(name, checkEntry(name, value, fileBytes - dataStart))
  checkCover(tensors, fileBytes - dataStart)
  return { tensors, metadata, dataStart }
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  let text = ''
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    fail('the header is not JSON')
  }
  if (!isObject(value)) return fail('the header is not a JSON object')
  const twice = duplicateKey(text)
  if (twice !== undefined) fail(`the header has the key ${quoted(twice)} twice`)
  return value
}

/** The first key that an object of this valid JSON text has twice; JSON.parse would keep the last silently. */
function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = []
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '{') open.push(new Set())
    else if (char === '[') open.push(undefined)
    else if (char === '}' || char === ']') open.pop()
    if (char !== '"') continue
    const start = i
    for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++
    let next = i + 1
    while (next < text.length && ' \t\r\n'.includes(text[next]!)) next++
    if (text[next] !== ':') continue
    const key = JSON.parse(text.slice(start, i + 1)) as string
    const keys = open.at(-1)
    if (keys?.has(key)) return key
    keys?.add(key)
  }
  return undefined
}

function checkMetadata(value: unknown): Record<string, string> {
  if (!isObject(value)) return fail('__metadata__ is not an object')
  for (const [key, text] of Object.entries(value))
    if (typeof text !== 'string') fail(`__metadata__ ${quoted(key)} is not a string`)
  return value as Record<string, string>
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

function checkEntry(name: string, value: unknown, dataBytes: number): TensorEntry {
  if (!isObject(value)) return fail(`tensor ${quoted(name)} is not described by an object`)
  const { dtype, shape, data_offsets: offsets, ...rest } = value
  for (const key in rest) fail(`tensor ${quoted(name)} has the unknown property ${quoted(key)}`)
  if (typeof dtype !== 'string' || !Object.hasOwn(safetensorsDtypes, dtype))
    return fail(`tensor ${quoted(name)} has the unknown dtype ${quoted(String(dtype))}`)
  if (!Array.isArray(shape) || !shape.every(isSize))
    return fail(`tensor ${quoted(name)} has a shape that is not a list of whole numbers`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    return fail(`tensor ${quoted(name)} has data_offsets that are not two whole numbers`)
  const [start, end] = offsets as [number, number]
  if (start > end) fail(`tensor ${quoted(name)} ends at byte ${end}, before its start at ${start}`)
  if (end > dataBytes)
    fail(`tensor ${quoted(name)} ends at byte ${end}, but the file has ${dataBytes} bytes of tensors`)
  const bytes = bytesOf(dtype as SafetensorsDtype, shape)
  if (bytes !== end - start)
    fail(
      `tensor ${quoted(name)} has ${end - start} bytes, but ${dtype}[${shape.slice(0, 8).join(', ')}] takes ${bytes}`,
    )
  return { dtype: dtype as SafetensorsDtype, shape, start, end }
}

/** Infinity where the product of a lying shape cannot be counted exactly. */
function bytesOf(dtype: SafetensorsDtype, shape: readonly number[]): number {
  if (shape.includes(0)) return 0
  let bytes: number = safetensorsDtypes[dtype]
  for (const size of shape) {
    bytes *= size
    if (bytes > Number.MAX_SAFE_INTEGER) return Number.POSITIVE_INFINITY
  }
  return bytes
}

function checkCover(tensors: ReadonlyMap<string, TensorEntry>, dataBytes: number): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)
  let covered = 0
  for (const [name, { start, end }] of inOrder) {
    if (start < covered) fail(`tensor ${quoted(name)} overlaps the one before it at byte ${start}`)
    if (start > covered) fail(`bytes ${covered} to ${start} belong to no tensor`)
    covered = end
  }
  if (covered !== dataBytes) fail(`bytes ${covered} to ${dataBytes} belong to no tensor`)
}

/**
 * All tensors of a file held in memory, as views of it.
 * @throws SafetensorsError
 */
export function readSafetensors(bytes: Uint8Array): SafetensorsContents {
  const header = parseHeader(bytes)
  const tensors = new Map<string, StoredTensor>()
  for (const [name, { dtype, shape, start, end }] of header.tensors)
    tensors.set(name, {
      dtype,
      shape,
      data: new Uint8Array(bytes.buffer, bytes.byteOffset + header.dataStart + start, end - start),
    })
  return { tensors, metadata: header.metadata }
}

/** A file whose tensors are read one at a time; `close` it. */
export interface SafetensorsFile extends SafetensorsHeader {
  /** @throws SafetensorsError if there is no such tensor or the file got shorter */
  read(name: string): StoredTensor
  /** Bytes `from` to `to` of a tensor; default: to its end. */
  bytes(name: string, from: number, to?: number): Uint8Array
  close(): void
}

/**
 * Opens a file and checks its header.
 * @throws SafetensorsError, its message starting with the path; system errors as they are
 */
export function openSafetensors(path: string): SafetensorsFile {
  const file = openSync(path, 'r')
  const readAt = (position: number, bytes: number): Uint8Array => {
    const into = new Uint8Array(bytes)
    for (let done = 0; done < bytes; ) {
      const count = readSync(file, into, done, Math.min(bytes - done, 2 ** 30), position + done)
      if (count === 0) fail(`${path}: ends at byte ${position + done}, ${position + bytes} wanted`)
      done += count
    }
    return into
  }
  try {
    const { size } = fstatSync(file)
    const first = readAt(0, Math.min(8, size))
    const header = parseHeader(readAt(0, 8 + headerLength(first, size)), size)
    const entryOf = (name: string): TensorEntry =>
      header.tensors.get(name) ?? fail(`${path}: has no tensor ${quoted(name)}`)
    return {
      ...header,
      bytes(name, from, to) {
        const { start, end } = entryOf(name)
        return readAt(header.dataStart + start + from, (to ?? end - start) - from)
      },
      read(name) {
        const { dtype, shape } = entryOf(name)
        return { dtype, shape, data: this.bytes(name, 0) }
      },
      close: () => closeSync(file),
    }
  } catch (error) {
    closeSync(file)
    if (error instanceof SafetensorsError && !error.message.startsWith(path)) fail(`${path}: ${error.message}`)
    throw error
  }
}

/**
 * A tensor to be written. `data` may be a function, called when its bytes are due, so that not all need be in memory; it may give
 * them in pieces, each of which is written before the next is asked for.
 */
export interface TensorToWrite {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  readonly data: ArrayBufferView | (() => ArrayBufferView | Iterable<ArrayBufferView>)
}

/**
 * The bytes of a file, chunk by chunk: the header, then each tensor. Tensors of wide dtypes come first, so that each is aligned to its
 * elements; among equals the order given is kept.
 * @throws SafetensorsError if a tensor's bytes do not fit its dtype and shape
 */
export function* safetensorsChunks(
  tensors: ReadonlyMap<string, TensorToWrite> | Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Generator<Uint8Array> {
  const entries: [string, TensorToWrite][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors)
  entries.sort(([, a], [, b]) => safetensorsDtypes[b.dtype] - safetensorsDtypes[a.dtype])
  const header = new Map<string, unknown>()
  if (Object.keys(metadata).length > 0) header.set('__metadata__', metadata)
  let offset = 0
  for (const [name, { dtype, shape }] of entries) {
    if (name === '__metadata__') fail('a tensor cannot be called __metadata__')
    const end = offset + bytesOf(dtype, shape)
    header.set(name, { dtype, shape, data_offsets: [offset, end] })
    offset = end
  }
  const lines = [...header].map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`)
  let json = new TextEncoder().encode(`{${lines.join(',')}}`)
  json = new TextEncoder().encode(`{${lines.join(',')}}${' '.repeat((8 - (json.length % 8)) % 8)}`)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(json.length), true)
  yield length
  yield json
  for (const [name, { dtype, shape, data }] of entries) {
    const wanted = bytesOf(dtype, shape)
    const views = typeof data === 'function' ? data() : data
    let given = 0
    for (const view of ArrayBuffer.isView(views) ? [views] : views) {
      given += view.byteLength
      if (given > wanted) break
      yield new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
    }
    if (given !== wanted)
      fail(`tensor ${quoted(name)} has ${given} bytes, but ${dtype}[${shape.join(', ')}] takes ${wanted}`)
  }
}

/**
 * Writes a file beside `path`, flushes it to the disk and renames it into place, so that `path` is never half a file.
 * `chunk` sees every chunk as it is written, for a checksum.
 * @throws SafetensorsError, system errors
 */
export function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorToWrite> | Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
  chunk: (bytes: Uint8Array) => void = () => {},
): void {
  const partial = `${path}.partial`
  try {
    const file = openSync(partial, 'w')
    try {
      for (const bytes of safetensorsChunks(tensors, metadata)) {
        for (let done = 0; done < bytes.length; )
          done += writeSync(file, bytes, done, Math.min(bytes.length - done, 2 ** 30))
        chunk(bytes)
      }
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(partial, path)
  } catch (error) {
    rmSync(partial, { force: true })
    throw error
  }
}

const wide = <T>(data: Uint8Array, array: { new (buffer: ArrayBuffer): T }): T => new array(new Uint8Array(data).buffer)

const byTable = (table: Float32Array) => (data: Uint8Array) => Float32Array.from(data, code => table[code]!)

const decoders: Partial<Record<SafetensorsDtype, (data: Uint8Array) => Float32Array>> = {
  F64: data => Float32Array.from(wide(data, Float64Array)),
  F32: data => wide(data, Float32Array),
  BF16: data => fromBf16(wide(data, Uint16Array)),
  F16: data => Float32Array.from(wide(data, Uint16Array), decodeF16),
  F8_E4M3: byTable(e4m3.values),
  F8_E5M2: byTable(e5m2.values),
}

/** Values of a floating-point tensor in a fresh array, F64 rounded to FP32; undefined for other dtypes. */
export const floatsOf = ({ dtype, data }: StoredTensor): Float32Array | undefined => decoders[dtype]?.(data)
