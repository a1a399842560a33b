import assert from 'node:assert/strict'
import { Stream } from '../src/formats/philox.ts'
import { floatsOf, readSafetensors, SafetensorsError, safetensorsChunks } from '../src/tensor/safetensors.ts'

/** A valid file with several dtypes, shapes and metadata. */
export function exampleFile(): Uint8Array {
  const tensors = {
    f32: { dtype: 'F32', shape: [3, 5], data: Float32Array.from({ length: 15 }, (_, i) => i / 2) },
    half: { dtype: 'BF16', shape: [2, 2], data: Uint16Array.of(1, 2, 3, 4) },
    codes: { dtype: 'U8', shape: [7], data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7) },
    scalar: { dtype: 'F32', shape: [], data: Float32Array.of(1) },
    none: { dtype: 'F8_E4M3', shape: [0, 3], data: new Uint8Array(0) },
  } as const
  return new Uint8Array(Buffer.concat([...safetensorsChunks(tensors, { made: 'for fuzzing' })]))
}

const fragments = [
  '"',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\\',
  '-1',
  '1e999',
  '9007199254740993',
  'null',
  '"F32"',
  '"dtype"',
  '\0',
]

type Mutation = (bytes: Uint8Array, random: Stream) => Uint8Array

const splice = (bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array =>
  new Uint8Array(Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]))

const headerEnd = (bytes: Uint8Array): number => {
  const length = bytes.length < 8 ? 0 : Number(Buffer.from(bytes).readBigUInt64LE(0))
  return Math.min(bytes.length, 8 + length)
}

const mutations: readonly Mutation[] = [
  (bytes, random) => bytes.slice(0, random.below(bytes.length + 1)),
  (bytes, random) => {
    const copy = bytes.slice()
    const at = random.below(copy.length)
    copy[at] = copy[at]! ^ (1 << random.below(8))
    return copy
  },
  (bytes, random) => {
    const copy = bytes.slice()
    for (let i = 0; i < 8; i++) if (random.below(3) === 0) copy[i] = random.word()
    return copy
  },
  (bytes, random) => {
    const fragment = new TextEncoder().encode(fragments[random.below(fragments.length)]!)
    return splice(bytes, 8 + random.below(headerEnd(bytes) - 8), random.below(4), fragment)
  },
  (bytes, random) => {
    const copy = bytes.slice()
    const digits = [...copy.keys()].filter(i => i < headerEnd(copy) && copy[i]! >= 48 && copy[i]! <= 57)
    const at = digits[random.below(digits.length)]!
    copy[at] = 48 + random.below(10)
    return copy
  },
  (bytes, random) => {
    const from = random.below(bytes.length)
    const piece = bytes.slice(from, from + random.below(60))
    return splice(bytes, random.below(bytes.length), 0, piece)
  },
  (bytes, random) => splice(bytes, bytes.length, 0, new Uint8Array(1 + random.below(50))),
]

/**
 * Reads `count` mutated copies of a valid file, some with a header length mended to match. Whatever the bytes, the reader either refuses with one
 * sentence or returns tensors that lie inside the file and have the size they claim.
 */
export function fuzz(count: number, seed: number): { refused: number; accepted: number } {
  const valid = exampleFile()
  const random = new Stream(seed, 0)
  let refused = 0
  let accepted = 0
  for (let trial = 0; trial < count; trial++) {
    let bytes = valid
    for (let times = 1 + random.below(3); times > 0 && bytes.length > 100; times--)
      bytes = mutations[random.below(mutations.length)]!(bytes, random)
    if (bytes.length > 8 && random.below(3) === 0) {
      bytes = bytes.slice()
      const mended = headerEnd(valid) - 8 + bytes.length - valid.length
      new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(Math.max(0, mended)), true)
    }
    const started = performance.now()
    try {
      for (const [name, tensor] of readSafetensors(bytes).tensors) {
        assert.ok(tensor.data.byteLength <= bytes.length, name)
        const values = floatsOf(tensor)
        if (values)
          assert.equal(
            values.length,
            tensor.shape.reduce((a, b) => a * b, 1),
          )
      }
      accepted++
    } catch (error) {
      if (!(error instanceof SafetensorsError)) throw error
      assert.match(error.message, /^[^\n]{1,400}$/u)
      refused++
    }
    assert.ok(performance.now() - started < 2000, 'the reader hangs')
  }
  return { refused, accepted }
}
