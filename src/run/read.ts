import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { parseConfig } from '../config/load.ts'
import type { RunConfig } from '../config/schema.ts'
import { systemReason } from './files.ts'
import { formatVersion, names } from './layout.ts'
import {
  type EventRecord,
  type NumericsRecord,
  readRecords,
  type TrainingRecord,
  type ValidationRecord,
} from './records.ts'

/** The run and step that a branch began from, and the recipe until then. */
export interface Branch {
  /** Path of the other run from the folder that this one is in. */
  readonly run: string
  readonly step: number
  readonly recipe: string
}

/** What config.json holds beside the config: where the run began. */
export interface Origin {
  /** Version of halfbyte. */
  readonly halfbyte: string
  /** The backend's description of itself: instruction level, threads, device. */
  readonly device: Readonly<Record<string, string | number>>
  /** Fingerprint of the training and validation text. */
  readonly corpus: string
  readonly branch?: Branch
  /** Folder of the Hugging Face checkpoint that the weights of step 0 came from. */
  readonly imported?: string
}

export interface StoredRun {
  readonly config: RunConfig
  readonly origin: Origin
}

/** The text of config.json: format version, origin, and the resolved config's own keys. */
export const configText = ({ config, origin }: StoredRun): string =>
  `${JSON.stringify({ format: formatVersion, ...origin, ...config }, null, 2)}\n`

/**
 * The config of a run.
 * @throws UserError if the directory is no run, or one of another format version.
 */
export function readRun(directory: string): StoredRun {
  const path = join(directory, names.config)
  if (!existsSync(path)) {
    const what = !existsSync(directory)
      ? 'does not exist'
      : statSync(directory).isDirectory()
        ? `has no ${names.config}`
        : 'is a file'
    throw new UserError(`${directory} is not a run directory: it ${what}`)
  }
  let value: unknown
  try {
    value = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new UserError(
      error instanceof SyntaxError ? `${path} is not JSON` : `${path} cannot be read: ${systemReason(error)}`,
    )
  }
  const { format, halfbyte, device, corpus, branch, imported, ...config } = (value ?? {}) as {
    format?: unknown
  } & Origin
  if (format !== formatVersion)
    throw new UserError(
      `${path}: found format ${JSON.stringify(format) ?? 'missing'}, wanted ${formatVersion}: the run was written by halfbyte ${halfbyte ?? 'of an unknown version'}`,
    )
  return {
    config: parseConfig(config, path),
    origin: { halfbyte, device, corpus, ...(branch && { branch }), ...(imported && { imported }) },
  }
}

export const readConfig = (directory: string): RunConfig => readRun(directory).config

/** Training and validation records in the order in which they were made. */
export const readMetrics = (directory: string): Generator<TrainingRecord | ValidationRecord> =>
  readRecords(join(directory, names.metrics)) as Generator<TrainingRecord | ValidationRecord>

export const readEvents = (directory: string): Generator<EventRecord> =>
  readRecords(join(directory, names.events)) as Generator<EventRecord>

/** Measurements of quantisation; none where a run takes none. */
export const readNumerics = (directory: string): Generator<NumericsRecord> =>
  readRecords(join(directory, names.numerics)) as Generator<NumericsRecord>
