import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
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

const words = { error: 'text' }
const origin = z.object({
  halfbyte: z.string(words),
  device: z.record(z.string(), z.union([z.string(), z.number()]), { error: 'what describes a backend' }),
  corpus: z.string(words),
  branch: z.object({ run: z.string(words), step: z.int({ error: 'a step' }), recipe: z.string(words) }).optional(),
  imported: z.string(words).optional(),
})

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
  const { error: wrong } = origin.safeParse({ halfbyte, device, corpus, branch, imported })
  if (wrong) {
    const { path: at, message } = wrong.issues[0]!
    throw new UserError(`${path} is damaged: ${at.join('.')} is not as halfbyte writes it, wanted ${message}`)
  }
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
export function* readNumerics(directory: string): Generator<NumericsRecord> {
  const path = join(directory, names.numerics)
  for (const record of readRecords(path)) {
    if (typeof record.linear !== 'string')
      throw new UserError(`${path}: found a record of step ${record.step} without "linear", wanted the layer's name`)
    yield record as NumericsRecord
  }
}
