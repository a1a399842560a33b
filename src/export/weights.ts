import type { RunConfig } from '../config/schema.ts'
import { findCheckpoint } from '../run/checkpoint.ts'
import type { Progress } from '../run/files.ts'
import { readRun } from '../run/read.ts'
import { openSafetensors, type SafetensorsFile } from '../tensor/safetensors.ts'

/** The FP32 parameters of a checkpoint, read a piece at a time. */
export interface Weights {
  /** Elements `from` to `to` of a parameter, in a fresh array. */
  read(parameter: string, from: number, to: number): Float32Array
  shape(parameter: string): readonly number[]
}

/** A run opened for export at one of its checkpoints; `close` it. */
export interface ExportedRun {
  readonly directory: string
  readonly config: RunConfig
  /** Steps done. */
  readonly step: number
  readonly weights: Weights
  close(): void
}

const weightsOf = (file: SafetensorsFile): Weights => ({
  shape: parameter => file.tensors.get(parameter)!.shape,
  read: (parameter, from, to) => new Float32Array(file.bytes(parameter, 4 * from, 4 * to).buffer),
})

/**
 * @param step checkpoint to use; default: the newest that is intact.
 * @param report told of every newer checkpoint that is damaged.
 * @param progress told of the bytes that are checked.
 * @throws UserError if the directory is no run or has no intact checkpoint.
 */
export function openExportedRun(
  directory: string,
  step: number | undefined,
  report: (reason: string) => void,
  progress?: Progress,
): ExportedRun {
  const { config } = readRun(directory)
  const checkpoint = findCheckpoint(directory, step, report, progress)
  const file = openSafetensors(checkpoint.files.model!)
  return {
    directory,
    config,
    step: checkpoint.state.step,
    weights: weightsOf(file),
    close: () => file.close(),
  }
}
