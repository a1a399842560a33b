import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import {
  floatsOf,
  openSafetensors,
  parseHeader,
  readSafetensors,
  SafetensorsError,
  safetensorsChunks,
  type TensorToWrite,
  writeSafetensors,
} from '../src/tensor/safetensors.ts'
import { exampleFile, fuzz } from './safetensors_fuzz.ts'

const folder = mkdtempSync(join(tmpdir(), 'halfbyte-safetensors-'))
after(() => rmSync(folder, { recursive: true }))

/** A file with this header text and so many bytes of data. */
function fileOf(header: string | object, dataBytes: number, length?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header))
  const bytes = new Uint8Array(8 + json.length + dataBytes)
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(json.length), true)
  bytes.set(json, 8)
  return bytes
}

const u8 = (start: number, end: number, more: object = {}) => ({
  dtype: 'U8',
  shape: [end - start],
  data_offsets: [start, end],
  ...more,
})

describe('safetensors', () => {
  it('writes what it reads, in every dtype, aligned, with metadata', () => {
    const tensors: Record<string, TensorToWrite> = {
      bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
      'a "quoted" näme': { dtype: 'F32', shape: [2, 1], data: Float32Array.of(1.5, -2) },
      half: { dtype: 'BF16', shape: [1], data: Uint16Array.of(0x3f80) },
      f16: { dtype: 'F16', shape: [1], data: Uint16Array.of(0x3c00) },
      i32: { dtype: 'I32', shape: [1], data: Int32Array.of(-7) },
      u32: { dtype: 'U32', shape: [1], data: Uint32Array.of(7) },
      i64: { dtype: 'I64', shape: [1], data: BigInt64Array.of(-7n) },
      e4m3: { dtype: 'F8_E4M3', shape: [2], data: Uint8Array.of(0x7e, 0xb8) },
      e5m2: { dtype: 'F8_E5M2', shape: [1], data: Uint8Array.of(0x7b) },
      flag: { dtype: 'BOOL', shape: [1], data: Uint8Array.of(1) },
      empty: { dtype: 'F32', shape: [0, 4], data: new Float32Array(0) },
      scalar: { dtype: 'F32', shape: [], data: () => Float32Array.of(3) },
      __proto: { dtype: 'U8', shape: [0], data: new Uint8Array(0) },
    }
    const path = join(folder, 'all.safetensors')
    const seen: Uint8Array[] = []
    writeSafetensors(path, tensors, { step: '12', format: 'pt' }, bytes => seen.push(bytes.slice()))
    const bytes = readFileSync(path)
    assert.ok(Buffer.concat(seen).equals(bytes))
    assert.ok(!existsSync(`${path}.partial`))
    const { tensors: read, metadata } = readSafetensors(bytes)
    assert.deepEqual(metadata, { step: '12', format: 'pt' })
    assert.deepEqual(new Set(read.keys()), new Set(Object.keys(tensors)))
    for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
      const view = (typeof data === 'function' ? data() : data) as ArrayBufferView
      const got = read.get(name)!
      assert.equal(got.dtype, dtype)
      assert.deepEqual(got.shape, shape)
      assert.ok(Buffer.from(got.data).equals(Buffer.from(view.buffer, view.byteOffset, view.byteLength)))
    }
    const header = parseHeader(bytes)
    assert.equal(header.dataStart % 8, 0)
    assert.equal(header.tensors.get('i64')!.start, 0)
    const file = openSafetensors(path)
    try {
      assert.deepEqual(floatsOf(file.read('a "quoted" näme')), Float32Array.of(1.5, -2))
      assert.deepEqual(floatsOf(file.read('half')), Float32Array.of(1))
      assert.deepEqual(floatsOf(file.read('f16')), Float32Array.of(1))
      assert.deepEqual(floatsOf(file.read('e4m3')), Float32Array.of(448, -1))
      assert.deepEqual(floatsOf(file.read('e5m2')), Float32Array.of(57344))
      assert.equal(floatsOf(file.read('i32')), undefined)
      assert.throws(() => file.read('missing'), /has no tensor "missing"/)
    } finally {
      file.close()
    }
  })

  it('decodes floats at an odd address', () => {
    const bytes = exampleFile()
    const moved = new Uint8Array(bytes.length + 1)
    moved.set(bytes, 1)
    const { tensors } = readSafetensors(moved.subarray(1))
    assert.deepEqual(floatsOf(tensors.get('f32')!), floatsOf(readSafetensors(bytes).tensors.get('f32')!))
  })

  it('names a key called __proto__ like any other', () => {
    const { tensors } = readSafetensors(fileOf(`{"__proto__":${JSON.stringify(u8(0, 1))}}`, 1))
    assert.deepEqual([...tensors.keys()], ['__proto__'])
  })

  it('takes nothing within a text for a key', () => {
    const metadata = { a: '","a":"' }
    assert.deepEqual(readSafetensors(fileOf({ __metadata__: metadata }, 0)).metadata, metadata)
  })

  const lies: [string, Uint8Array, RegExp][] = [
    ['is empty', new Uint8Array(0), /starts with 8 bytes of length, this has 0 bytes/],
    ['is 5 bytes long', new Uint8Array(5), /this has 5 bytes/],
    ['claims an enormous header', fileOf('{}', 0, 2n ** 63n), /claims 9223372036854775808 bytes, more than/],
    ['claims a header longer than the file', fileOf('{}', 0, 3n), /claims 3 bytes, but only 2 follow/],
    ['has a header that is no JSON', fileOf('{"a"', 0), /is not JSON/],
    ['has a header that is not UTF-8', fileOf('', 2, 2n).fill(0xff, 8), /is not JSON/],
    ['has an array for a header', fileOf('[]', 0), /not a JSON object/],
    ['has null for a header', fileOf('null', 0), /not a JSON object/],
    [
      'has a name twice',
      fileOf(`{"a":${JSON.stringify(u8(0, 1))},"\\u0061":${JSON.stringify(u8(1, 2))}}`, 2),
      /key "a" twice/,
    ],
    [
      'has a property twice',
      fileOf('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
      /"dtype" twice/,
    ],
    ['has a number for a tensor', fileOf({ a: 3 }, 0), /"a" is not described by an object/],
    ['has an unknown dtype', fileOf({ a: u8(0, 1, { dtype: 'F128' }) }, 1), /unknown dtype "F128"/],
    [
      'has an inherited name for a dtype',
      fileOf({ a: u8(0, 1, { dtype: 'toString' }) }, 1),
      /unknown dtype "toString"/,
    ],
    ['has no shape', fileOf({ a: u8(0, 1, { shape: undefined }) }, 1), /"a" has a shape that is not/],
    ['has a negative size', fileOf({ a: u8(0, 1, { shape: [-1] }) }, 1), /"a" has a shape that is not/],
    ['has a fractional size', fileOf({ a: u8(0, 1, { shape: [0.5] }) }, 1), /"a" has a shape that is not/],
    ['has one offset', fileOf({ a: u8(0, 1, { data_offsets: [0] }) }, 1), /not two whole numbers/],
    ['has an offset of 1e300', fileOf({ a: u8(0, 1, { data_offsets: [0, 1e300] }) }, 1), /not two whole numbers/],
    [
      'ends before it starts',
      fileOf({ a: u8(1, 1, { data_offsets: [1, 0] }) }, 1),
      /ends at byte 0, before its start at 1/,
    ],
    ['ends outside the file', fileOf({ a: u8(0, 9) }, 1), /ends at byte 9, but the file has 1 bytes/],
    [
      'has too few bytes for its shape',
      fileOf({ a: u8(0, 4, { dtype: 'F32' }) }, 4),
      /has 4 bytes, but F32\[4\] takes 16/,
    ],
    [
      'has a shape whose product overflows',
      fileOf({ a: u8(0, 4, { shape: [2 ** 50, 2 ** 50] }) }, 4),
      /takes Infinity/,
    ],
    ['has tensors that overlap', fileOf({ a: u8(0, 3), b: u8(2, 4) }, 4), /"b" overlaps the one before it at byte 2/],
    ['has a gap', fileOf({ a: u8(0, 1), b: u8(2, 4) }, 4), /bytes 1 to 2 belong to no tensor/],
    ['has bytes after the last tensor', fileOf({ a: u8(0, 1) }, 4), /bytes 1 to 4 belong to no tensor/],
    ['has an unknown property', fileOf({ a: u8(0, 1, { stride: 2 }) }, 1), /unknown property "stride"/],
    ['has numbers as metadata', fileOf({ __metadata__: { a: 1 } }, 0), /__metadata__ "a" is not a string/],
    ['has a list as metadata', fileOf({ __metadata__: [] }, 0), /__metadata__ is not an object/],
  ]
  for (const [what, bytes, message] of lies)
    it(`refuses a file that ${what}`, () => {
      assert.throws(
        () => readSafetensors(bytes),
        (error: Error) =>
          error instanceof SafetensorsError && message.test(error.message) && !error.message.includes('\n'),
      )
    })

  it('refuses a nesting deep enough to exhaust a stack', () => {
    assert.throws(() => readSafetensors(fileOf(`{"a":${'['.repeat(1e6)}`, 0)), SafetensorsError)
    assert.throws(() => readSafetensors(fileOf(`{"a":${'['.repeat(1e5)}${']'.repeat(1e5)}}`, 0)), SafetensorsError)
  })

  it('names the file that is truncated, and survives one that shrinks while open', () => {
    const path = join(folder, 'short.safetensors')
    const bytes = exampleFile()
    writeFileSync(path, bytes.subarray(0, bytes.length - 1))
    assert.throws(
      () => openSafetensors(path),
      (error: Error) => error instanceof SafetensorsError && error.message.startsWith(path),
    )
    writeFileSync(path, bytes)
    const file = openSafetensors(path)
    truncateSync(path, bytes.length - 4)
    const last = [...file.tensors].sort(([, a], [, b]) => b.end - a.end)[0]![0]
    assert.throws(() => file.read(last), /ends at byte/)
    file.close()
  })

  it('leaves the old file alone when a tensor does not fit its shape', () => {
    const path = join(folder, 'kept.safetensors')
    writeSafetensors(path, { a: { dtype: 'U8', shape: [1], data: Uint8Array.of(5) } })
    const wrong = { a: { dtype: 'F32' as const, shape: [2], data: Float32Array.of(1) } }
    assert.throws(() => writeSafetensors(path, wrong), /"a" has 4 bytes, but F32\[2\] takes 8/)
    assert.throws(() => writeSafetensors(path, { __metadata__: wrong.a }), /cannot be called/)
    assert.equal(readSafetensors(readFileSync(path)).tensors.get('a')!.data[0], 5)
    assert.ok(!existsSync(`${path}.partial`))
  })

  it('gives the same bytes whether data is ready or made when due', () => {
    const data = Float32Array.of(1, 2)
    const bytes = (from: TensorToWrite['data']) =>
      Buffer.concat([...safetensorsChunks(new Map([['a', { dtype: 'F32' as const, shape: [2], data: from }]]))])
    assert.ok(bytes(data).equals(bytes(() => data)))
  })

  it('survives 300 mutated files', () => {
    const { refused, accepted } = fuzz(300, 1)
    assert.equal(refused + accepted, 300)
    assert.ok(refused > 100, `${refused} refused`)
  })
})
