import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { loadConfig } from '../src/config/load.ts'
import type { RunConfig, RunPreset } from '../src/config/schema.ts'
import type { ExportedTokenizer } from '../src/export/hf.ts'
import { Stream } from '../src/formats/philox.ts'
import { parameterSpecs } from '../src/model/parameters.ts'
import { writeCheckpoint } from '../src/run/checkpoint.ts'
import { names } from '../src/run/layout.ts'
import { configText } from '../src/run/read.ts'
import { sizeOf } from '../src/tensor/tensor.ts'

/** Runs for tests of export, made without training. */

/** A folder of this test file's own, deleted at its end. */
export function ownFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-export-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Blocks of every kind; in_proj has 196 rows, which no tile divides, and o_proj 64 inputs. */
export const hybrid = {
  steps: 100,
  recipe: 'nvfp4',
  model: {
    pattern: 'M*-M-',
    hidden: 64,
    ffn: 128,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    mamba_heads: 4,
    mamba_head_dim: 16,
    groups: 2,
    state: 16,
    chunk: 16,
    vocab: 272,
    eps: 1e-6,
    init_std: 0.05,
  },
  data: { sequence: 32, batch: 1, micro_batch: 1 },
  optimizer: { lr: 1e-3 },
} as const satisfies RunPreset

/** Rotary positions, so another architecture. */
export const dense = {
  ...hybrid,
  model: { ...hybrid.model, pattern: '*-*-', rope: 10000 },
} as const satisfies RunPreset

export const configOf = (preset: RunPreset, ...overrides: string[]): RunConfig =>
  loadConfig('test', overrides, { test: preset })

/** Values that BF16 rounds, of a deviation that differs between parameters. */
export function weightsOf(name: string, shape: readonly number[]): Float32Array {
  const random = new Stream(name.length, shape[0]!)
  return Float32Array.from({ length: sizeOf(shape) }, () => random.normal() * 0.02 * (1 + (name.length % 5)))
}

/** Writes a run with a checkpoint of `step`, and samples of its inputs if asked. Returns its directory. */
export function makeRun(
  directory: string,
  config: RunConfig,
  { step = 10, weights = weightsOf, inputs = {} as Readonly<Record<string, number>> } = {},
): string {
  mkdirSync(directory, { recursive: true })
  const origin = { halfbyte: '0.0.0', device: {}, corpus: 'none' }
  writeFileSync(join(directory, names.config), configText({ config, origin }))
  const tensors = parameterSpecs(config.model).all.map(({ name, shape }) => {
    const values = weights(name, shape)
    return {
      name,
      dtype: 'f32' as const,
      shape,
      read: (start: number, into: { length: number }) => {
        ;(into as Float32Array).set(values.subarray(start, start + into.length))
      },
    }
  })
  writeCheckpoint(directory, { model: tensors, optimizer: [] }, { step, seed: 1, tokens: 0 })
  const records = Object.entries(inputs).map(([linear, amax]) => ({ step: 1, linear, operand: 'xRows', amax }))
  writeFileSync(join(directory, names.numerics), records.map(record => `${JSON.stringify(record)}\n`).join(''))
  return directory
}

/** A tokenizer of two tokens, 256 standing between documents. */
export const tokenizer: ExportedTokenizer = {
  separator: 256,
  json: () =>
    JSON.stringify({
      added_tokens: [{ id: 256, content: '<|end|>', special: true }],
      pre_tokenizer: { type: 'ByteLevel', use_regex: true },
      model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: [['a', 'b']] },
    }),
}
