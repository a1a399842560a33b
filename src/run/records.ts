import { closeSync, existsSync, fsyncSync, ftruncateSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { isSystemError, systemReason, writeAll } from './files.ts'
import { recordFiles } from './layout.ts'

/** A line of a .jsonl file. `step` counts the steps done, from 1; steps never fall from one line to the next. */
export interface RunRecord {
  readonly step: number
  readonly [key: string]: unknown
}

export interface TrainingRecord extends RunRecord {
  /** Mean cross-entropy of the step's targets, in nats per token. */
  readonly loss: number
  /** Tokens trained on so far, this step included. */
  readonly tokens: number
  readonly lr: number
  /** Norm of the whole gradient before clipping. */
  readonly grad_norm: number
  readonly tokens_per_second: number
}

export interface ValidationRecord extends RunRecord {
  /** Mean cross-entropy of the held-out targets, in nats per token. */
  readonly validation_loss: number
}

export interface EventRecord extends RunRecord {
  /** What happened, such as `resumed`. */
  readonly event: string
}

/** What quantisation did to an operand of a linear layer at a sampled step; docs/run-directory.md has the keys. */
export interface NumericsRecord extends RunRecord {
  readonly linear: string
  /** Absent where the layer quantises nothing. */
  readonly operand?: string
  /** In dB; null without error. */
  readonly snr_db?: number | null
  /** Shares, 0 to 1. */
  readonly flushed?: number
  readonly saturated?: number
  readonly zero_scales?: number
  readonly zero_wgrad?: number
}

/** Appends records; each is handed to the system before `write` returns, so that a killed process loses none. */
export class RecordWriter {
  readonly #path: string
  #file: number | undefined

  constructor(path: string) {
    this.#path = path
  }

  /** @throws UserError if the disk is full or the file cannot be written. */
  write(record: RunRecord): void {
    try {
      this.#file ??= openSync(this.#path, 'a')
      writeAll(this.#file, Buffer.from(`${JSON.stringify(record)}\n`, 'utf8'))
    } catch (error) {
      throw new UserError(`${this.#path} cannot be written: ${systemReason(error)}`)
    }
  }

  /** Flushes to the disk, so that what was written lasts through a power failure. */
  sync(): void {
    if (this.#file !== undefined) fsyncSync(this.#file)
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
    this.#file = undefined
  }
}

/** Lines that end with a newline, with the byte at which each begins. */
function* wholeLines(file: number): Generator<{ text: string; offset: number }> {
  const buffer = Buffer.alloc(2 ** 18)
  let rest = Buffer.alloc(0)
  let offset = 0
  for (;;) {
    const count = readSync(file, buffer, 0, buffer.length, null)
    if (count === 0) return
    const bytes = Buffer.concat([rest, buffer.subarray(0, count)])
    let from = 0
    for (let newline = bytes.indexOf(10); newline >= 0; newline = bytes.indexOf(10, from)) {
      yield { text: bytes.toString('utf8', from, newline), offset: offset + from }
      from = newline + 1
    }
    offset += from
    rest = bytes.subarray(from)
  }
}

function parseRecord(path: string, text: string, line: number): RunRecord {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {}
  const step = (value as { step?: unknown } | null | undefined)?.step
  if (typeof step !== 'number') throw new UserError(`${path}, line ${line}: found no record, wanted {"step": ...}`)
  return value as RunRecord
}

/**
 * The records of a file, read as they are asked for. A last line without its newline is still being written, or was torn when the
 * process died, and is left out; a missing file has no records.
 * @throws UserError naming a line that is no record.
 */
export function* readRecords(path: string): Generator<RunRecord> {
  if (!existsSync(path)) return
  let file: number | undefined
  try {
    file = openSync(path, 'r')
    let line = 0
    for (const { text } of wholeLines(file)) yield parseRecord(path, text, ++line)
  } catch (error) {
    if (!isSystemError(error)) throw error
    throw new UserError(`${path} cannot be read: ${systemReason(error)}`)
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/** Shortens a file to the records up to `step`. Shortening needs no space and is done at once or not at all. */
function cutFile(path: string, step: number): void {
  if (!existsSync(path)) return
  const file = openSync(path, 'r+')
  try {
    let end = 0
    let line = 0
    for (const { text, offset } of wholeLines(file)) {
      if (parseRecord(path, text, ++line).step > step) break
      end = offset + Buffer.byteLength(text) + 1
    }
    ftruncateSync(file, end)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** Drops the records after `step`, and torn last lines: what a resumed run will write again. */
export function cutRecords(directory: string, step: number): void {
  for (const name of recordFiles) cutFile(join(directory, name), step)
}

/** Whether a record of metrics.jsonl is of a training step or of a validation. */
export const isValidation = (record: RunRecord): record is ValidationRecord => 'validation_loss' in record
export const isTraining = (record: RunRecord): record is TrainingRecord => 'loss' in record
