import { compressedTensors } from './compressed_tensors.ts'
import { type Progress, writeCheckpointFolder } from './folder.ts'
import { writeGguf } from './gguf.ts'
import { ggufFile } from './gguf_export.ts'
import { type ExportDtype, type ExportedTokenizer, hfCheckpoint } from './hf.ts'
import { modelopt } from './modelopt.ts'
import { type PackedLayout, type PackedSummary, packedCheckpoint } from './packed.ts'
import type { ExportedRun } from './weights.ts'

export interface ExportOptions {
  /** Of the values that stay floats. */
  readonly dtype: ExportDtype
  /** Bytes of tensors in a file of a sharded checkpoint. */
  readonly shardBytes: number
  readonly progress: Progress
  /** Told in a sentence what could not be as asked. */
  readonly note: (sentence: string) => void
  /** Stops the writing; nothing stays then. */
  readonly signal?: AbortSignal
}

/** What was written. */
export interface Exported {
  readonly tensors: number
  /** Of tensors, without headers and files of text. */
  readonly bytes: number
  /** Where layers are quantised. */
  readonly packed?: PackedSummary | undefined
}

/** A layout that others read. */
export interface Target {
  readonly title: string
  readonly dtype: ExportDtype
  write(run: ExportedRun, tokenizer: ExportedTokenizer, out: string, options: ExportOptions): Promise<Exported>
}

const packedTarget = (title: string, layout: PackedLayout): Target => ({
  title,
  dtype: 'bf16',
  async write(run, tokenizer, out, { dtype, shardBytes, progress, signal }) {
    const { checkpoint, summary } = packedCheckpoint(run, tokenizer, dtype, layout)
    const bytes = await writeCheckpointFolder(out, checkpoint, shardBytes, progress, signal)
    return { tensors: checkpoint.tensors.size, bytes, packed: summary }
  },
})

const ggufTarget = (title: string, quantised: boolean): Target => ({
  title,
  dtype: 'bf16',
  async write(run, tokenizer, out, { dtype, progress, note, signal }) {
    const { metadata, tensors, packed } = ggufFile(run, tokenizer, { dtype, quantised }, note)
    return { tensors: tensors.length, bytes: await writeGguf(out, metadata, tensors, progress, signal), packed }
  },
})

/** What `--to` names. */
export const targets: Readonly<Record<string, Target>> = {
  hf: {
    title: 'a folder for Hugging Face transformers, in floats',
    dtype: 'f32',
    async write(run, tokenizer, out, { dtype, shardBytes, progress, signal }) {
      const checkpoint = hfCheckpoint(run, tokenizer, dtype)
      const bytes = await writeCheckpointFolder(out, checkpoint, shardBytes, progress, signal)
      return { tensors: checkpoint.tensors.size, bytes }
    },
  },
  'compressed-tensors': packedTarget('a folder for vLLM: FP4 codes of training, nvfp4 or mxfp4', compressedTensors),
  modelopt: packedTarget('a folder for TensorRT-LLM, vLLM, SGLang: NVFP4 codes of training', modelopt),
  gguf: ggufTarget('a file for llama.cpp: NVFP4 and MXFP4 codes of training in ggml blocks, the rest in floats', true),
  'gguf-float': ggufTarget('a file for llama.cpp, in floats', false),
}
