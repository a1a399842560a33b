import { join } from 'node:path'

/** What a run directory is made of. docs/run-directory.md describes it for those who read one. */

/** Raised whenever a reader of the older format would misread the newer. */
export const formatVersion = 1

/** Names in a run directory. */
export const names = {
  config: 'config.json',
  metrics: 'metrics.jsonl',
  events: 'events.jsonl',
  numerics: 'numerics.jsonl',
  routes: 'routes.json',
  checkpoints: 'checkpoints',
  lock: 'lock',
  /** In `checkpoints/<step>/`. */
  state: 'state.json',
} as const

/** Files of records that grow with the run. */
export const recordFiles = [names.metrics, names.events, names.numerics] as const
export type RecordFile = (typeof recordFiles)[number]

export const checkpointDirectory = (run: string, step: number): string => join(run, names.checkpoints, String(step))
