import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { type DType, dtypes, type TypedArray } from '../tensor/dtype.ts'
import { type SafetensorsDtype, safetensorsChunks, type TensorToWrite } from '../tensor/safetensors.ts'
import { sizeOf, type Tensor } from '../tensor/tensor.ts'
import {
  atOnce,
  counted,
  type Digest,
  digesting,
  discard,
  isSystemError,
  makeDirectory,
  type Pausable,
  type Progress,
  pieceBytes,
  syncDirectory,
  systemReason,
  type Write,
  writeDurably,
  writingDurably,
} from './files.ts'
import { checkpointDirectory, formatVersion, names } from './layout.ts'

/** A tensor on its way to a checkpoint; `read` copies elements from `start` on into an array of the tensor's dtype. */
export interface CheckpointTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  read(start: number, into: TypedArray): void
}

/** The files of a checkpoint, by name without `.safetensors`: `model` and `optimizer`. */
export type CheckpointFiles = Readonly<Record<string, Iterable<CheckpointTensor>>>

/** What a run needs besides tensors to go on: whatever the trainer counts. */
export interface TrainingState {
  /** Steps done. */
  readonly step: number
  readonly seed: number
  /** Tokens trained on. */
  readonly tokens: number
  readonly [counter: string]: unknown
}

/** state.json */
interface StoredState {
  readonly format: number
  readonly state: TrainingState
  readonly files: Readonly<Record<string, Digest>>
  /** SHA-256 of this object's JSON without this key. */
  readonly sha256: string
}

export const storedDtypes: Readonly<Record<DType, SafetensorsDtype>> = {
  f32: 'F32',
  bf16: 'BF16',
  u8: 'U8',
  i32: 'I32',
  u32: 'U32',
}

/** A tensor of a backend, read in pieces when its turn comes. */
export const fromBackend = (name: string, tensor: Tensor): CheckpointTensor => ({
  name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  read: (start, into) => tensor.backend.read(tensor.memory, tensor.offset + start * dtypes[tensor.dtype].bytes, into),
})

/** The bytes of a tensor in pieces, all in one buffer. */
function* pieces(tensor: CheckpointTensor, buffer: ArrayBuffer): Generator<ArrayBufferView> {
  const { array, bytes } = dtypes[tensor.dtype]
  const size = sizeOf(tensor.shape)
  const most = buffer.byteLength / bytes
  for (let start = 0; start < size; start += most) {
    const piece = new array(buffer, 0, Math.min(most, size - start))
    tensor.read(start, piece)
    yield piece
  }
}

const bytesOf = ({ dtype, shape }: CheckpointTensor): number => sizeOf(shape) * dtypes[dtype].bytes

function chunksOf(list: readonly CheckpointTensor[]): Iterable<Uint8Array> {
  const largest = Math.max(0, ...list.map(bytesOf))
  const buffer = new ArrayBuffer(Math.min(pieceBytes, Math.ceil(largest / 64) * 64))
  const entries = new Map<string, TensorToWrite>()
  for (const tensor of list)
    entries.set(tensor.name, {
      dtype: storedDtypes[tensor.dtype],
      shape: tensor.shape,
      data: () => pieces(tensor, buffer),
    })
  return safetensorsChunks(entries, { format: 'pt' })
}

const digestOf = (value: Omit<StoredState, 'sha256'>): string =>
  createHash('sha256').update(JSON.stringify(value)).digest('hex')

/** A folder being written, or moved out of the way, beside the checkpoints; no reader looks into it. */
const besideName = (run: string, what: string, step: number): string => join(run, names.checkpoints, `.${what}-${step}`)

/** Puts a finished folder in its place, where an older checkpoint of the same step may be. */
function moveIntoPlace(run: string, from: string, step: number): void {
  const place = checkpointDirectory(run, step)
  const replaced = besideName(run, 'replaced', step)
  if (existsSync(place)) renameSync(place, replaced)
  renameSync(from, place)
  syncDirectory(dirname(place))
  rmSync(replaced, { recursive: true, force: true })
}

export interface WriteOptions {
  /** In place of the system's; for tests. */
  readonly write?: Write | undefined
  /** Told of the bytes of tensors that are written. */
  readonly progress?: Progress | undefined
}

/**
 * Saves a checkpoint: written beside the others, flushed, then renamed to `checkpoints/<step>`, so that a folder of that name is always whole.
 * Nothing of it stays if it is given up where it pauses.
 * @throws UserError if the system refuses, for instance because the disk is full: nothing of the new checkpoint stays, the older ones do.
 */
export function* writingCheckpoint(
  run: string,
  files: CheckpointFiles,
  state: TrainingState,
  { write, progress = () => {} }: WriteOptions = {},
): Pausable<string> {
  const { step } = state
  const partial = besideName(run, 'writing', step)
  try {
    rmSync(partial, { recursive: true, force: true })
    makeDirectory(partial)
    const digests: Record<string, Digest> = {}
    const lists = Object.entries(files).map(([name, tensors]) => [`${name}.safetensors`, [...tensors]] as const)
    const total = lists.reduce((sum, [, list]) => sum + list.reduce((bytes, tensor) => bytes + bytesOf(tensor), 0), 0)
    let done = 0
    const count = (bytes: number) =>
      progress((done = Math.min(total, done + bytes)), total, `saving the checkpoint of step ${step}`)
    for (const [file, list] of lists)
      digests[file] = yield* writingDurably(join(partial, file), counted(chunksOf(list), count), write)
    const content = { format: formatVersion, state, files: digests }
    const text = JSON.stringify({ ...content, sha256: digestOf(content) }, null, 1)
    writeDurably(join(partial, names.state), [Buffer.from(`${text}\n`, 'utf8')], write)
    syncDirectory(partial)
    moveIntoPlace(run, partial, step)
    // The folder of checkpoints and the files of records may be new there.
    syncDirectory(run)
  } catch (error) {
    discard(partial)
    if (!isSystemError(error)) throw error
    const older = listCheckpoints(run).at(-1)
    const left = older === undefined ? 'there is no older one' : `the one of step ${older} stays`
    throw new UserError(
      `the checkpoint of step ${step} cannot be saved in ${join(run, names.checkpoints)}: ${systemReason(error)}; ${left}`,
    )
  }
  return checkpointDirectory(run, step)
}

/** The same without a pause. */
export const writeCheckpoint = (...args: Parameters<typeof writingCheckpoint>): string =>
  atOnce(writingCheckpoint(...args))

/** Deletes all but the newest `keep` checkpoints. Each is renamed first, so that no reader meets one that is half deleted. */
export function pruneCheckpoints(run: string, keep: number): void {
  for (const step of listCheckpoints(run).slice(0, -keep)) {
    const leaving = besideName(run, 'deleted', step)
    renameSync(checkpointDirectory(run, step), leaving)
    rmSync(leaving, { recursive: true, force: true })
  }
}

/** Deletes what a process that died left half written, and puts back what it had moved away. No other process may be writing. */
export function removeRemains(run: string): void {
  const folder = join(run, names.checkpoints)
  if (!existsSync(folder)) return
  for (const name of readdirSync(folder)) {
    const [, what, step] = /^\.(writing|replaced|deleted)-(\d+)$/.exec(name) ?? []
    if (what === undefined) continue
    const place = checkpointDirectory(run, Number(step))
    if (what === 'replaced' && !existsSync(place)) renameSync(join(folder, name), place)
    else rmSync(join(folder, name), { recursive: true, force: true })
  }
}

/** Steps of which there is a checkpoint, intact or not, oldest first. */
export function listCheckpoints(run: string): number[] {
  const folder = join(run, names.checkpoints)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter(name => /^(0|[1-9]\d*)$/.test(name))
    .map(Number)
    .sort((a, b) => a - b)
}

/** A checkpoint whose every byte is as it was written. */
export interface Checkpoint {
  readonly directory: string
  readonly state: TrainingState
  /** Path of a file by its name without `.safetensors`. */
  readonly files: Readonly<Record<string, string>>
}

function readState(path: string): StoredState {
  const damaged = (why: string) => new UserError(`${path} is damaged: ${why}`)
  let stored: StoredState
  try {
    stored = JSON.parse(readFileSync(path, 'utf8')) as StoredState
  } catch (error) {
    if (isSystemError(error)) throw new UserError(`${path} cannot be read: ${systemReason(error)}`)
    throw damaged('it is not JSON')
  }
  const { sha256, ...content } = stored ?? {}
  if (sha256 !== digestOf(content as StoredState)) throw damaged('its SHA-256 is not the one written in it')
  if (content.format !== formatVersion)
    throw new UserError(`${path}: found format ${content.format}, wanted ${formatVersion}`)
  return stored
}

/**
 * Checks a checkpoint to the last byte; pauses while it reads.
 * @param progress told of the bytes that are checked.
 * @throws UserError naming the file that is missing, too short or changed.
 */
export function* checkingCheckpoint(run: string, step: number, progress: Progress = () => {}): Pausable<Checkpoint> {
  const directory = checkpointDirectory(run, step)
  if (!existsSync(directory)) {
    const steps = listCheckpoints(run)
    const there = steps.length === 0 ? 'there is none' : `there are ${steps.join(', ')}`
    throw new UserError(`${run} has no checkpoint of step ${step}; ${there}`)
  }
  const { state, files } = readState(join(directory, names.state))
  if (state.step !== step)
    throw new UserError(
      `${join(directory, names.state)} is of step ${state.step}, wanted ${step}: the folder was renamed`,
    )
  const paths: Record<string, string> = {}
  const total = Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  const count = (bytes: number) => progress((done += bytes), total, `checking the checkpoint of step ${step}`)
  for (const [name, wanted] of Object.entries(files)) {
    const path = join(directory, name)
    if (!existsSync(path)) throw new UserError(`${path} is missing`)
    const { size } = statSync(path)
    if (size !== wanted.bytes)
      throw new UserError(
        `${path} is ${size < wanted.bytes ? 'truncated' : 'too long'}: found ${size} bytes, wanted ${wanted.bytes}`,
      )
    const { sha256 } = yield* digesting(path, count)
    if (sha256 !== wanted.sha256)
      throw new UserError(`${path} is damaged: its SHA-256 is not the one in ${names.state}`)
    paths[name.replace(/\.safetensors$/, '')] = path
  }
  return { directory, state, files: paths }
}

/** The same without a pause. */
export const readCheckpoint = (...args: Parameters<typeof checkingCheckpoint>): Checkpoint =>
  atOnce(checkingCheckpoint(...args))

/**
 * The newest checkpoint that is intact, or undefined if the run has none.
 * @param damaged Told of every newer one that is not, with the reason.
 * @param progress told of the bytes that are checked.
 * @throws UserError if there are checkpoints but none is intact.
 */
export function latestGood(
  run: string,
  damaged: (step: number, reason: string) => void,
  progress?: Progress,
): Checkpoint | undefined {
  const steps = listCheckpoints(run).reverse()
  let first: string | undefined
  for (const step of steps) {
    try {
      return readCheckpoint(run, step, progress)
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      first ??= error.message
      damaged(step, error.message)
    }
  }
  if (first === undefined) return undefined
  throw new UserError(
    steps.length === 1 ? `${first}; there is no older checkpoint` : `${first}; no older checkpoint is intact`,
  )
}

/**
 * The checkpoint of `step`, or the newest that is intact, for whoever only reads it.
 * @param notice told in a sentence of every newer one that is damaged.
 * @throws UserError if there is none.
 */
export function findCheckpoint(
  run: string,
  step: number | undefined,
  notice: (sentence: string) => void,
  progress?: Progress,
): Checkpoint {
  if (step !== undefined) return readCheckpoint(run, step, progress)
  const damaged: string[] = []
  const found = latestGood(run, (_, reason) => damaged.push(reason), progress)
  if (!found) throw new UserError(`${run} has no checkpoint yet`)
  for (const reason of damaged) notice(reason)
  return found
}

/** Moves a damaged checkpoint aside, so that its step can be saved anew and nothing of it is lost. */
export function setAside(run: string, step: number): void {
  const aside = besideName(run, 'damaged', step)
  rmSync(aside, { recursive: true, force: true })
  renameSync(checkpointDirectory(run, step), aside)
}
