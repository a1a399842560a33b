import { CorpusError } from './errors.ts'

/**
 * The index of a Megatron indexed dataset (`.idx`, beside the tokens in `.bin`), little-endian:
 *
 *   9 bytes "MMIDIDX\0\0", u64 version = 1, u8 type of token, u64 sequences, u64 documents + 1,
 *   i32 tokens of each sequence, i64 byte at which each begins in the .bin, i64 the sequence at which each document begins, and their number.
 *
 * Source: megatron/core/datasets/indexed_dataset.py. Here a document is one sequence.
 */

const magic = Buffer.from('MMIDIDX\0\0', 'latin1')
export const indexHeaderBytes = 34

/** Types of token by their code: those that hold token numbers and no negative ones. */
const tokenTypes: Readonly<Record<number, TokenType>> = { 4: 'int32', 8: 'uint16' }

export type TokenType = 'uint16' | 'int32'
export const bytesPerToken: Readonly<Record<TokenType, number>> = { uint16: 2, int32: 4 }
export const tokenTypeFor = (vocabulary: number): TokenType => (vocabulary <= 65_536 ? 'uint16' : 'int32')

export interface IndexHeader {
  readonly type: TokenType
  readonly sequences: number
  readonly documents: number
}

/** Where the byte positions of the sequences begin in the index. */
export const pointersAt = ({ sequences }: IndexHeader): number => indexHeaderBytes + sequences * 4

/** Size of an index; one of a multimodal dataset has a byte more for each sequence. */
const indexBytes = ({ sequences, documents }: IndexHeader): number =>
  indexHeaderBytes + sequences * 12 + (documents + 1) * 8

/** @throws CorpusError if the first bytes and the size are not those of an index. */
export function readIndexHeader(path: string, head: Buffer, size: number): IndexHeader {
  if (head.length < indexHeaderBytes || !head.subarray(0, magic.length).equals(magic))
    throw new CorpusError(`${path} is not an index of Megatron: it does not begin with MMIDIDX`)
  const version = head.readBigUInt64LE(9)
  if (version !== 1n) throw new CorpusError(`${path} is an index of version ${version}, wanted 1`)
  const code = head.readUInt8(17)
  const type = tokenTypes[code]
  if (!type) throw new CorpusError(`${path}: found tokens of type ${code}, wanted 8 (uint16) or 4 (int32)`)
  const header = { type, sequences: Number(head.readBigUInt64LE(18)), documents: Number(head.readBigUInt64LE(26)) - 1 }
  const wanted = indexBytes(header)
  if (size !== wanted && size !== wanted + header.sequences)
    throw new CorpusError(
      `${path} is damaged or truncated: found ${size} bytes, wanted ${wanted} for ${header.sequences} sequences`,
    )
  return header
}

/** The index of documents of so many tokens each. */
export function makeIndex(type: TokenType, lengths: Int32Array): Buffer {
  const header = { type, sequences: lengths.length, documents: lengths.length }
  const index = Buffer.alloc(indexBytes(header))
  const code = Object.entries(tokenTypes).find(([, name]) => name === type)![0]
  magic.copy(index)
  index.writeBigUInt64LE(1n, 9)
  index.writeUInt8(Number(code), 17)
  index.writeBigUInt64LE(BigInt(header.sequences), 18)
  index.writeBigUInt64LE(BigInt(header.documents + 1), 26)
  let at = indexHeaderBytes
  for (const length of lengths) at = index.writeInt32LE(length, at)
  let begin = 0
  for (const length of lengths) {
    at = index.writeBigInt64LE(BigInt(begin), at)
    begin += length * bytesPerToken[type]
  }
  for (let document = 0; document <= lengths.length; document++) at = index.writeBigInt64LE(BigInt(document), at)
  return index
}
