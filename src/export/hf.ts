import { toBf16 } from '../formats/bf16.ts'
import type { TensorToWrite } from '../tensor/safetensors.ts'
import { sizeOf } from '../tensor/tensor.ts'
import {
  type Architecture,
  architectureFor,
  type CheckpointPart,
  checkpointParts,
  type HfConfig,
} from './architectures.ts'
import { type Checkpoint, json } from './folder.ts'
import type { ExportedRun, Weights } from './weights.ts'

/** A run as a checkpoint of Hugging Face transformers: names, shapes and dtype change, values only where BF16 rounds them. */

/** What export must know of the tokenizer of a run. */
export interface ExportedTokenizer {
  /** Stands between documents: first token of a text and end of it. */
  readonly separator: number
  /** The text of a `tokenizer.json`. */
  json(): string
}

export type ExportDtype = 'f32' | 'bf16'

/** Elements that are read, and rounded, at a time: 4 MiB of FP32. */
const atOnce = 2 ** 20

/** The FP32 elements `from` to `to` of a parameter, in pieces. */
export function* floatPieces(weights: Weights, parameter: string, from: number, to: number): Generator<Float32Array> {
  for (let start = from; start < to; start += atOnce) yield weights.read(parameter, start, Math.min(start + atOnce, to))
}

const storedAs = { f32: 'F32', bf16: 'BF16' } as const

/** A part of a parameter as floats. */
export function floatTensor(weights: Weights, part: CheckpointPart, dtype: ExportDtype): TensorToWrite {
  const row = sizeOf(part.shape.slice(1))
  return {
    dtype: storedAs[dtype],
    shape: part.shape,
    *data() {
      for (const piece of floatPieces(weights, part.parameter, part.from * row, part.to * row))
        yield dtype === 'bf16' ? toBf16(piece) : piece
    },
  }
}

/** The text of an added token of a tokenizer.json. */
function tokenText(tokenizer: string, id: number): string | undefined {
  const { added_tokens: added = [] } = JSON.parse(tokenizer) as { added_tokens?: { id: number; content: string }[] }
  return added.find(token => token.id === id)?.content
}

/** tokenizer.json and the files that tell transformers how to use it and when to stop. */
function textFiles(tokenizer: ExportedTokenizer, sequence: number): Record<string, string> {
  const text = tokenizer.json()
  const end = tokenText(text, tokenizer.separator)
  const { separator } = tokenizer
  return {
    'tokenizer.json': text,
    'tokenizer_config.json': json({
      tokenizer_class: 'PreTrainedTokenizerFast',
      model_max_length: sequence,
      clean_up_tokenization_spaces: false,
      ...(end !== undefined && { bos_token: end, eos_token: end, pad_token: end }),
    }),
    'generation_config.json': json({
      bos_token_id: separator,
      eos_token_id: separator,
      pad_token_id: separator,
      do_sample: true,
    }),
  }
}

/** What the kinds of checkpoint in this layout have in common. */
export interface CheckpointBase {
  readonly architecture: Architecture
  readonly parts: readonly CheckpointPart[]
  readonly config: HfConfig
  readonly files: Readonly<Record<string, string>>
}

/** @throws UserError if no class of transformers has this model */
export function checkpointBase(run: ExportedRun, tokenizer: ExportedTokenizer, dtype: ExportDtype): CheckpointBase {
  const { model, data } = run.config
  const architecture = architectureFor(model)
  const { separator } = tokenizer
  return {
    architecture,
    parts: checkpointParts(model, architecture),
    config: architecture.config(model, {
      sequence: data.sequence,
      bos: separator,
      eos: separator,
      dtype: dtype === 'f32' ? 'float32' : 'bfloat16',
    }),
    files: textFiles(tokenizer, data.sequence),
  }
}

/** Every parameter in one dtype. */
export function hfCheckpoint(run: ExportedRun, tokenizer: ExportedTokenizer, dtype: ExportDtype): Checkpoint {
  const { parts, config, files } = checkpointBase(run, tokenizer, dtype)
  return {
    tensors: new Map(parts.map(part => [part.name, floatTensor(run.weights, part, dtype)])),
    files: { 'config.json': json(config), ...files },
  }
}
