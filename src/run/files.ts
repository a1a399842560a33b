import { createHash } from 'node:crypto'
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname, resolve } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { UserError } from '../config/errors.ts'

export { makeDirectory } from '../data/paths.ts'

/** Hands bytes to an open file and says how many it took, as `fs.writeSync`; a test may give one that fails. */
export type Write = (file: number, bytes: Uint8Array, offset: number, length: number) => number

/** At most this much is held at once of what is written or read. */
export const pieceBytes = 64 * 2 ** 20

/** Told of long work: how much of it is done, of how much, and what is being done. */
export type Progress = (done: number, total: number, what: string) => void

/** The chunks, each counted as it goes by. */
export function* counted(chunks: Iterable<Uint8Array>, count: (bytes: number) => void): Generator<Uint8Array> {
  for (const chunk of chunks) {
    yield chunk
    count(chunk.length)
  }
}

/** What the system said, without the call that it said it about: `ENOSPC: no space left on device`. */
export function systemReason(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code ? (message.startsWith(code) ? message.split(',')[0]! : `${code}: ${message}`) : String(message)
}

/** Whether the error is the system's refusal rather than a defect or a sentence already made for the user. */
export const isSystemError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error && !(error instanceof UserError) && typeof (error as NodeJS.ErrnoException).code === 'string'

/** Makes renames and new names in a folder last through a power failure. Windows refuses to flush a folder, and needs it not: NTFS journals names. */
export function syncDirectory(directory: string): void {
  if (process.platform === 'win32') return
  const handle = openSync(directory, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}

export function writeAll(file: number, bytes: Uint8Array, write: Write = writeSync): void {
  for (let done = 0; done < bytes.length; ) done += write(file, bytes, done, Math.min(bytes.length - done, pieceBytes))
}

/** Size and SHA-256 (hexadecimal) of a file. */
export interface Digest {
  readonly bytes: number
  readonly sha256: string
}

/** Work that may pause wherever it yields: done in one go, or in turns with the event loop. */
export type Pausable<T> = Generator<undefined, T>

export function atOnce<T>(work: Pausable<T>): T {
  for (;;) {
    const { done, value } = work.next()
    if (done) return value
  }
}

/** Milliseconds of work after which the event loop has a turn, so that signals are heard. */
const turnEvery = 50

/** @throws the signal's reason if it is aborted meanwhile; the work gets it where it paused, to clean up */
export async function inTurns<T>(work: Pausable<T>, signal?: AbortSignal): Promise<T> {
  for (let turn = performance.now(); ; ) {
    const { done, value } = work.next()
    if (done) return value
    if (performance.now() - turn < turnEvery) continue
    await setImmediate()
    if (signal?.aborted) work.throw(signal.reason)
    turn = performance.now()
  }
}

/**
 * Writes a file, flushed to the disk if it is on one; pauses after each chunk.
 * @param seen told of every chunk that is written.
 */
export function* writingFile(
  path: string,
  chunks: Iterable<Uint8Array>,
  write?: Write,
  seen: (chunk: Uint8Array) => void = () => {},
): Pausable<void> {
  const file = openSync(path, 'w')
  try {
    for (const chunk of chunks) {
      writeAll(file, chunk, write)
      seen(chunk)
      yield
    }
    if (fstatSync(file).isFile()) fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** The same, with the digest of the file. */
export function* writingDurably(path: string, chunks: Iterable<Uint8Array>, write?: Write): Pausable<Digest> {
  const hash = createHash('sha256')
  let bytes = 0
  yield* writingFile(path, chunks, write, chunk => {
    hash.update(chunk)
    bytes += chunk.length
  })
  return { bytes, sha256: hash.digest('hex') }
}

export const writeDurably = (path: string, chunks: Iterable<Uint8Array>, write?: Write): Digest =>
  atOnce(writingDurably(path, chunks, write))

/** Removes what was begun to be written, as far as the system lets it: the error that ended the work is what counts. */
export function discard(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true })
  } catch {}
}

/**
 * Replaces a file so that it is the old one or the new one, whole, at any moment; pauses after each chunk. What is there already and no file,
 * such as /dev/stdout, is written to.
 * @throws UserError if the system refuses; nothing stays then.
 */
export function* replacingFile(path: string, chunks: Iterable<Uint8Array>): Pausable<void> {
  let partial: string | undefined
  try {
    const found = statSync(path, { throwIfNoEntry: false })
    if (found && !found.isFile()) return yield* writingFile(path, chunks)
    const place = found ? realpathSync(path) : path
    partial = `${place}.partial`
    yield* writingFile(partial, chunks)
    renameSync(partial, place)
    partial = undefined
    syncDirectory(dirname(place))
  } catch (error) {
    if (!isSystemError(error)) throw error
    throw new UserError(`${path} cannot be written: ${systemReason(error)}`)
  } finally {
    if (partial !== undefined) discard(partial)
  }
}

export const replaceFile = (path: string, text: string): void =>
  atOnce(replacingFile(path, [Buffer.from(text, 'utf8')]))

/**
 * Finds out before long work that its result has a place: the nearest folder above that is there takes new names, or the file itself is
 * written to.
 * @throws UserError naming the path and the system's reason
 */
export function wantWritable(path: string): void {
  let place = resolve(path)
  while (!existsSync(place) && place !== dirname(place)) place = dirname(place)
  try {
    accessSync(place, constants.W_OK)
    if (place !== resolve(path) && !statSync(place).isDirectory()) throw new UserError(`${place} is no folder`)
  } catch (error) {
    const reason = isSystemError(error) ? systemReason(error) : (error as Error).message
    throw new UserError(`${path} cannot be written: ${reason}`)
  }
}

/** The bytes of a file, as they are read. Each chunk is gone when the next is asked for. */
export function* chunksOf(path: string): Generator<Uint8Array> {
  const buffer = Buffer.alloc(2 ** 20)
  const file = openSync(path, 'r')
  try {
    for (;;) {
      const length = readSync(file, buffer, 0, buffer.length, null)
      if (length === 0) return
      yield buffer.subarray(0, length)
    }
  } finally {
    closeSync(file)
  }
}

/** @param count told of the bytes that are read, as they are. */
export function* digesting(path: string, count: (bytes: number) => void = () => {}): Pausable<Digest> {
  const hash = createHash('sha256')
  let bytes = 0
  for (const chunk of chunksOf(path)) {
    hash.update(chunk)
    bytes += chunk.length
    count(chunk.length)
    yield
  }
  return { bytes, sha256: hash.digest('hex') }
}
