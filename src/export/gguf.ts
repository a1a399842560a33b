import { inTurns, writingFile } from '../run/files.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { type Progress, writeBeside } from './folder.ts'

/**
 * GGUF version 3, little-endian:
 *
 *   "GGUF"  u32 version  u64 tensors  u64 pairs
 *   pairs:   string key, u32 type, value          string = u64 length, UTF-8; array = u32 type of elements, u64 length, elements
 *   tensors: string name, u32 dimensions, u64 sizes (the innermost first), u32 type, u64 offset
 *   padding to 32 bytes, then each tensor's bytes at its offset from here, padded to 32
 *
 * Source: the format's description in the ggml project, and the pip package `gguf`.
 */

/** Tensor types that are written: ggml's number, and how many elements take how many bytes. */
export const ggufTypes = {
  f32: { id: 0, block: 1, bytes: 4 },
  bf16: { id: 30, block: 1, bytes: 2 },
  mxfp4: { id: 39, block: 32, bytes: 17 },
  nvfp4: { id: 40, block: 64, bytes: 36 },
} as const
export type GgufType = keyof typeof ggufTypes

export interface GgufTensor {
  readonly name: string
  readonly type: GgufType
  /** The innermost dimension, whole blocks of the type, last. */
  readonly shape: readonly number[]
  /** Its bytes, in pieces; each is written before the next is asked for. */
  data(): Iterable<Uint8Array>
}

type Scalar =
  | { readonly type: 'u32' | 'i32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
type List =
  | { readonly type: 'i32[]'; readonly value: readonly number[] }
  | { readonly type: 'string[]'; readonly value: readonly string[] }
export type GgufValue = Scalar | List
export type GgufMetadata = Readonly<Record<string, GgufValue>>

const alignment = 32
const valueTypes = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const

const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment

/** Little-endian words of one kind. */
function words(size: number, write: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size)
  write(new DataView(bytes.buffer))
  return bytes
}

const u32 = (value: number): Uint8Array => words(4, view => view.setUint32(0, value, true))
const u64 = (value: number): Uint8Array => words(8, view => view.setBigUint64(0, BigInt(value), true))

function string(text: string): Uint8Array[] {
  const bytes = new TextEncoder().encode(text)
  return [u64(bytes.length), bytes]
}

const scalars: Readonly<Record<Scalar['type'], (value: never) => Uint8Array[]>> = {
  u32: (value: number) => [u32(value)],
  i32: (value: number) => [words(4, view => view.setInt32(0, value, true))],
  f32: (value: number) => [words(4, view => view.setFloat32(0, value, true))],
  bool: (value: boolean) => [Uint8Array.of(value ? 1 : 0)],
  string,
}

function encodeValue({ type, value }: GgufValue): Uint8Array[] {
  const element = type.replace('[]', '') as Scalar['type']
  const encode = scalars[element] as (value: unknown) => Uint8Array[]
  if (!Array.isArray(value)) return [u32(valueTypes[element]), ...encode(value)]
  return [u32(valueTypes.array), u32(valueTypes[element]), u64(value.length), ...value.flatMap(encode)]
}

export function ggufBytes({ type, shape }: Pick<GgufTensor, 'type' | 'shape'>): number {
  const { block, bytes } = ggufTypes[type]
  return (sizeOf(shape) / block) * bytes
}

/** Everything before the tensors' bytes. */
export function ggufHeader(metadata: GgufMetadata, tensors: readonly GgufTensor[]): Uint8Array {
  const pairs = Object.entries(metadata)
  const parts = [new TextEncoder().encode('GGUF'), u32(3), u64(tensors.length), u64(pairs.length)]
  for (const [key, value] of pairs) parts.push(...string(key), ...encodeValue(value))
  let offset = 0
  for (const tensor of tensors) {
    const { name, type, shape } = tensor
    parts.push(...string(name), u32(shape.length), ...shape.toReversed().map(u64))
    parts.push(u32(ggufTypes[type].id), u64(offset))
    offset += aligned(ggufBytes(tensor))
  }
  const header = Buffer.concat(parts)
  return Buffer.concat([header, Buffer.alloc(aligned(header.length) - header.length)])
}

/** @throws RangeError if a tensor gives more or fewer bytes than its shape takes */
function* ggufChunks(metadata: GgufMetadata, tensors: readonly GgufTensor[]): Generator<Uint8Array> {
  yield ggufHeader(metadata, tensors)
  for (const tensor of tensors) {
    const wanted = ggufBytes(tensor)
    let given = 0
    for (const bytes of tensor.data()) {
      given += bytes.length
      if (given > wanted) break
      yield bytes
    }
    if (given !== wanted)
      throw new RangeError(`tensor ${tensor.name} has ${given} bytes, but its shape takes ${wanted}`)
    yield new Uint8Array(aligned(wanted) - wanted)
  }
}

/** Writes a file beside `out` and renames it into place. Returns the bytes of its tensors. */
export async function writeGguf(
  out: string,
  metadata: GgufMetadata,
  tensors: readonly GgufTensor[],
  progress: Progress,
  signal?: AbortSignal,
): Promise<number> {
  const total = tensors.reduce((sum, tensor) => sum + ggufBytes(tensor), 0)
  await writeBeside(out, async partial => {
    let written = 0
    const counted = tensors.map(tensor => ({
      ...tensor,
      *data() {
        for (const bytes of tensor.data()) {
          yield bytes
          progress((written += bytes.length), total)
        }
      },
    }))
    await inTurns(writingFile(partial, ggufChunks(metadata, counted)), signal)
  })
  return total
}
