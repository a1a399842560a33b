import { type Progress, writeCheckpointFolder } from './folder.ts'
import { type ExportDtype, type ExportedTokenizer, hfCheckpoint } from './hf.ts'
import type { ExportedRun } from './weights.ts'

export interface ExportOptions {
  /** Of the values that stay floats. */
  readonly dtype: ExportDtype
  /** Bytes of tensors in a file of a sharded checkpoint. */
  readonly shardBytes: number
  readonly progress: Progress
}

/** What was written. */
export interface Exported {
  readonly tensors: number
  /** Of tensors, without headers and files of text. */
  readonly bytes: number
}

/** A layout that others read. */
export interface Target {
  readonly title: string
  readonly dtype: ExportDtype
  write(run: ExportedRun, tokenizer: ExportedTokenizer, out: string, options: ExportOptions): Exported
}

/** What `--to` names. */
export const targets: Readonly<Record<string, Target>> = {
  hf: {
    title: 'a folder for Hugging Face transformers, in floats',
    dtype: 'f32',
    write(run, tokenizer, out, { dtype, shardBytes, progress }) {
      const checkpoint = hfCheckpoint(run, tokenizer, dtype)
      const bytes = writeCheckpointFolder(out, checkpoint, shardBytes, progress)
      return { tensors: checkpoint.tensors.size, bytes }
    },
  },
}
