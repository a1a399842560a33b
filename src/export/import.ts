import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { UserError } from '../config/errors.ts'
import type { RunConfig, RunPreset } from '../config/schema.ts'
import { tokenizers } from '../data/tokenizer.ts'
import { parameterSpecs } from '../model/parameters.ts'
import { type CheckpointTensor, writingCheckpoint } from '../run/checkpoint.ts'
import { inTurns, type Progress, writeDurably } from '../run/files.ts'
import { names } from '../run/layout.ts'
import { configText, type Origin } from '../run/read.ts'
import { sizeOf } from '../tensor/tensor.ts'
import {
  type Architecture,
  architectures,
  type CheckpointPart,
  checkpointParts,
  type HfConfig,
} from './architectures.ts'
import { writeBeside } from './folder.ts'
import { type HfTensors, openHfTensors, readHfConfig } from './hf_folder.ts'

/**
 * A checkpoint of Hugging Face transformers as a run that has made no step: its weights, widened to FP32, are the checkpoint of step 0,
 * and the moments are zero. Exported again in the dtype that they had they are the same bytes.
 */

/** @throws UserError listing the architectures that there are */
function architectureOf(config: HfConfig): Architecture {
  const named = Array.isArray(config.architectures) ? config.architectures.map(String) : []
  const found = architectures.find(({ name, modelType }) => named.includes(name) || config.model_type === modelType)
  if (found) return found
  const what = named[0] ?? (typeof config.model_type === 'string' ? config.model_type : 'none')
  throw new UserError(
    `config.json: architectures: found ${what}, wanted ${architectures.map(({ name }) => name).join(' or ')}`,
  )
}

/** What `data.tokenizer` names the tokenizer of a folder by; undefined if it has none. */
function importedTokenizer(folder: string): string | undefined {
  const path = join(folder, 'tokenizer.json')
  if (!existsSync(path)) return undefined
  const text = readFileSync(path, 'utf8')
  return Object.values(tokenizers).find(tokenizer => tokenizer.json() === text)?.name ?? path
}

/**
 * What the config.json and the name of a folder say of a run; the user says the rest.
 * @throws UserError naming a key whose value halfbyte cannot train
 */
export function importedPreset(folder: string): RunPreset {
  const config = readHfConfig(folder)
  const name = basename(resolve(folder))
  const tokenizer = importedTokenizer(folder)
  if (config.quantization_config !== undefined)
    throw new UserError(
      'config.json: found quantization_config, wanted a checkpoint in floats, which training goes on from',
    )
  const context = config.max_position_embeddings
  const sequence = typeof context === 'number' ? Math.max(16, Math.min(1024, Math.floor(context / 16) * 16)) : 512
  return {
    name: name.replace(/[^\w.-]/g, '-') || 'imported',
    steps: 1000,
    recipe: 'nvfp4',
    model: architectureOf(config).model(config),
    data: { sequence, batch: 8, micro_batch: 1, ...(tokenizer !== undefined && { tokenizer }) },
    optimizer: { lr: 1e-4 },
  }
}

/** Tensors under the hub's names: transformers 5 writes `model.` where the hub has `backbone.`. */
function tensorNames(tensors: HfTensors, parts: readonly CheckpointPart[]): ReadonlyMap<string, string> {
  const there = new Set(tensors.names)
  const names = new Map<string, string>()
  for (const { name, shape } of parts) {
    const found = [name, name.replace(/^backbone\./, 'model.')].find(candidate => there.delete(candidate))
    const wanted = `[${shape.join(', ')}]`
    if (found === undefined) throw new UserError(`tensor ${name} is missing, wanted ${wanted}`)
    const stored = `[${tensors.shape(found).join(', ')}]`
    if (stored !== wanted) throw new UserError(`tensor ${found}: found ${stored}, wanted ${wanted}`)
    if (!['F32', 'BF16', 'F16'].includes(tensors.dtype(found)))
      throw new UserError(`tensor ${found}: found ${tensors.dtype(found)}, wanted F32, BF16 or F16`)
    names.set(name, found)
  }
  for (const name of there) throw new UserError(`tensor ${name} is none that the model has`)
  return names
}

/** Parameters of the model, each read from the tensors that it is made of. */
function parameters(config: RunConfig, tensors: HfTensors, architecture: Architecture): CheckpointTensor[] {
  const parts = checkpointParts(config.model, architecture)
  const stored = tensorNames(tensors, parts)
  return parameterSpecs(config.model).all.map(({ name, shape }) => ({
    name,
    dtype: 'f32',
    shape,
    read(start, into) {
      const row = sizeOf(shape.slice(1))
      const end = start + into.length
      for (const part of parts.filter(({ parameter }) => parameter === name)) {
        const from = Math.max(start, part.from * row)
        const to = Math.min(end, part.to * row)
        const first = part.from * row
        if (from < to) into.set(tensors.read(stored.get(part.name)!, from - first, to - first), from - start)
      }
    },
  }))
}

const zeroMoments = (config: RunConfig): CheckpointTensor[] =>
  ['first', 'second'].flatMap(moment =>
    parameterSpecs(config.model).all.map(({ name, shape }) => ({
      name: `${name}.${moment}`,
      dtype: 'f32' as const,
      shape,
      read: (_, into) => into.fill(0),
    })),
  )

export interface ImportOptions {
  /** Told of the bytes of tensors that are written. */
  readonly progress?: Progress
  /** Stops the import; nothing stays then. */
  readonly signal?: AbortSignal
}

/**
 * Makes `directory` a run of `config` with the weights of `folder`. Training opens it as any unfinished run.
 * @throws UserError naming the tensor that is missing, mis-shaped or unknown; nothing stays then.
 */
export async function importRun(
  folder: string,
  directory: string,
  config: RunConfig,
  origin: Origin,
  { progress, signal }: ImportOptions = {},
): Promise<void> {
  const architecture = architectureOf(readHfConfig(folder))
  const tensors = openHfTensors(folder)
  try {
    const model = parameters(config, tensors, architecture)
    await writeBeside(directory, async partial => {
      mkdirSync(partial)
      const files = { model, optimizer: zeroMoments(config) }
      const state = { step: 0, seed: config.seed, tokens: 0 }
      await inTurns(writingCheckpoint(partial, files, state, { progress }), signal)
      writeDurably(join(partial, names.config), [Buffer.from(configText({ config, origin }), 'utf8')])
    })
  } finally {
    tensors.close()
  }
}
