import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { UserError } from '../config/errors.ts'
import {
  counted,
  discard,
  inTurns,
  isSystemError,
  makeDirectory,
  syncDirectory,
  systemReason,
  writingFile,
} from '../run/files.ts'
import { safetensorsChunks, safetensorsDtypes, type TensorToWrite } from '../tensor/safetensors.ts'
import { sizeOf } from '../tensor/tensor.ts'

/** Told how much is written; `total` is known before the first byte. */
export type Progress = (bytes: number, total: number) => void

/** A checkpoint in the layout of Hugging Face: files of text, and tensors in shards. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, TensorToWrite>
  /** Content by name. */
  readonly files: Readonly<Record<string, string>>
}

export const bytesOf = ({ dtype, shape }: Pick<TensorToWrite, 'dtype' | 'shape'>): number =>
  sizeOf(shape) * safetensorsDtypes[dtype]

/** @throws UserError if something is already there but an empty folder */
export function wantNew(out: string): void {
  if (existsSync(out) && !(statSync(out).isDirectory() && readdirSync(out).length === 0))
    throw new UserError(`${out} exists already; a new name is wanted`)
}

/**
 * Makes a file or folder beside `out` and renames it into place when it is whole; nothing stays if that fails.
 * @throws UserError if something is already there or the system refuses
 */
export async function writeBeside(out: string, write: (partial: string) => Promise<void>): Promise<void> {
  wantNew(out)
  const partial = `${resolve(out)}.partial`
  try {
    makeDirectory(dirname(partial))
    rmSync(partial, { recursive: true, force: true })
    await write(partial)
    // Not what has come into the empty folder meanwhile.
    if (existsSync(out)) rmdirSync(out)
    renameSync(partial, out)
    syncDirectory(dirname(partial))
  } catch (error) {
    discard(partial)
    if (!isSystemError(error)) throw error
    throw new UserError(`${out} cannot be written: ${systemReason(error)}`)
  }
}

/** Tensors in their order, in groups of at most `most` bytes; a larger tensor is a group of its own. */
function shardsOf(tensors: Checkpoint['tensors'], most: number): [string, TensorToWrite][][] {
  const shards: [string, TensorToWrite][][] = []
  let room = 0
  for (const entry of tensors) {
    const bytes = bytesOf(entry[1])
    if (shards.length === 0 || bytes > room) {
      shards.push([])
      room = most
    }
    shards.at(-1)!.push(entry)
    room -= bytes
  }
  return shards
}

export const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/**
 * Writes `model.safetensors`, or where that would have more than `shardBytes` bytes of tensors, `model-00001-of-0000N.safetensors` and
 * `model.safetensors.index.json`; and the other files. Tensors are asked for their bytes one after another.
 * @returns bytes of tensors
 */
export async function writeCheckpointFolder(
  out: string,
  { tensors, files }: Checkpoint,
  shardBytes: number,
  progress: Progress,
  signal?: AbortSignal,
): Promise<number> {
  const total = [...tensors.values()].reduce((sum, tensor) => sum + bytesOf(tensor), 0)
  const shards = shardsOf(tensors, shardBytes)
  const number = (n: number) => String(n).padStart(5, '0')
  const name = (i: number) =>
    shards.length === 1 ? 'model.safetensors' : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`
  await writeBeside(out, async partial => {
    mkdirSync(partial)
    let written = 0
    for (const [i, shard] of shards.entries()) {
      const chunks = safetensorsChunks(new Map(shard), { format: 'pt' })
      const shown = counted(chunks, bytes => progress((written += bytes), total))
      await inTurns(writingFile(join(partial, name(i)), shown), signal)
    }
    const all: Record<string, string> = { ...files }
    if (shards.length > 1) {
      const map = shards.flatMap((shard, i) => shard.map(([tensor]) => [tensor, name(i)]))
      all['model.safetensors.index.json'] = json({
        metadata: { total_size: total },
        weight_map: Object.fromEntries(map),
      })
    }
    for (const [file, text] of Object.entries(all))
      await inTurns(writingFile(join(partial, file), [Buffer.from(text, 'utf8')]))
    syncDirectory(partial)
  })
  return total
}
