import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import type { RunConfig } from '../config/schema.ts'
import {
  type Checkpoint,
  type CheckpointFiles,
  pruneCheckpoints,
  type TrainingState,
  type WriteOptions,
  writeCheckpoint,
} from './checkpoint.ts'
import { names, type RecordFile, recordFiles } from './layout.ts'
import {
  type EventRecord,
  RecordWriter,
  type RunRecord,
  type TrainingRecord,
  type ValidationRecord,
} from './records.ts'
import type { RecordSink } from './tensorboard.ts'

/** A run directory that this process alone writes to. */
export class Run {
  readonly directory: string
  readonly config: RunConfig
  /** Where to go on from; undefined at the start. */
  readonly checkpoint: Checkpoint | undefined
  readonly #writers: Readonly<Record<RecordFile, RecordWriter>>
  readonly #unlock: () => void
  readonly #sinks: RecordSink[] = []
  #saved: number | undefined

  constructor(directory: string, config: RunConfig, checkpoint: Checkpoint | undefined, unlock: () => void) {
    this.directory = directory
    this.config = config
    this.checkpoint = checkpoint
    this.#saved = checkpoint?.state.step
    this.#unlock = unlock
    this.#writers = Object.fromEntries(
      recordFiles.map(name => [name, new RecordWriter(join(directory, name))]),
    ) as Record<RecordFile, RecordWriter>
  }

  /** Steps done when the run was opened. */
  get startStep(): number {
    return this.checkpoint?.state.step ?? 0
  }

  /** Hands all records from now on to `sink` too, and closes it with the run. */
  attach(sink: RecordSink): void {
    this.#sinks.push(sink)
  }

  metrics(record: TrainingRecord | ValidationRecord): void {
    this.#record('metrics.jsonl', record)
  }

  event(record: EventRecord): void {
    this.#record('events.jsonl', record)
  }

  numerics(record: RunRecord): void {
    this.#record('numerics.jsonl', record)
  }

  #record(file: RecordFile, record: RunRecord): void {
    this.#writers[file].write(record)
    for (const sink of this.#sinks) sink.record(file, record)
  }

  /**
   * Saves a checkpoint, then deletes the oldest beyond `checkpoint.keep`. Records up to its step must have been written, because resuming
   * from it keeps them and writes none of them again. A step already saved is not saved twice.
   * @throws UserError if the disk is full, the system refuses or the directory is gone; the older checkpoints stay.
   */
  save(files: CheckpointFiles, state: TrainingState, options?: WriteOptions): void {
    if (this.#saved === state.step) return
    if (!existsSync(join(this.directory, names.config)))
      throw new UserError(`run directory ${this.directory} is gone: it was deleted or moved while it trained`)
    for (const writer of [...Object.values(this.#writers), ...this.#sinks]) writer.sync()
    writeCheckpoint(this.directory, files, state, options)
    this.#saved = state.step
    pruneCheckpoints(this.directory, this.config.checkpoint.keep)
  }

  /** Step of the newest checkpoint saved or resumed from. */
  get savedStep(): number | undefined {
    return this.#saved
  }

  close(): void {
    for (const writer of [...Object.values(this.#writers), ...this.#sinks]) writer.close()
    this.#unlock()
  }
}
