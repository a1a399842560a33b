import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openBackend, packageRoot } from '../src/backends/open.ts'
import { importedPreset, importRun } from '../src/export/import.ts'
import { targets } from '../src/export/targets.ts'
import { openExportedRun } from '../src/export/weights.ts'
import { kernels } from '../src/kernels/index.ts'
import { Model } from '../src/model/model.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { readCheckpoint } from '../src/run/checkpoint.ts'
import { restoreTensors, toBackend } from '../src/run/restore.ts'
import { floatsOf, readSafetensors, type StoredTensor } from '../src/tensor/safetensors.ts'
import { configOf, ownFolder, tokenizer } from './exported_runs.ts'
import { makeBatch } from './models.ts'

/** Checkpoints that transformers wrote, with its logits: test/export/make_hf.py. */

const folder = ownFolder()

/** All tensors of a folder, from whatever files. */
function tensorsOf(directory: string): Map<string, StoredTensor> {
  const files = readdirSync(directory).filter(file => file.endsWith('.safetensors'))
  return new Map(files.flatMap(file => [...readSafetensors(readFileSync(join(directory, file))).tensors]))
}

describe('checkpoints of transformers', () => {
  for (const [name, dtype, limit] of [
    ['nemotron_h', 'bf16', 1e-5],
    ['arcee', 'f32', 1e-5],
  ] as const)
    it(`compute the same here and go back as the same bytes: ${name}`, async () => {
      const there = join(packageRoot(), 'test', 'export', name)
      const config = configOf(importedPreset(there), 'data.tokenizer=bytes', 'recipe=bf16')
      const directory = join(folder, name)
      await importRun(there, directory, config, { halfbyte: '0', device: {}, corpus: '', imported: there })

      const { tensors } = readSafetensors(readFileSync(join(there, 'logits')))
      const tokens = new Int32Array(tensors.get('tokens')!.data.slice().buffer)
      const wanted = floatsOf(tensors.get('logits')!)!
      const backend = await openBackend('reference', kernels)
      const options = { seed: 1, steps: 1, sequence: tokens.length, tokens: tokens.length }
      const model = new Model({ config: config.model, backend, recipe: findRecipe('fp32'), ...options })
      const targetsOfRestore = model.parameters.all.map(({ name, value }) => toBackend(name, value))
      restoreTensors(readCheckpoint(directory, 0).files.model!, targetsOfRestore)
      model.weightsChanged()
      const batch = makeBatch(backend, tokens, tokens.length)
      const logits = model.logits(batch.tokens, batch.starts, tokens.length, model.recipe)
      const scale = wanted.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
      const difference = logits.reduce((most, v, i) => Math.max(most, Math.abs(v - wanted[i]!)), 0)
      assert.ok(scale > 1 && difference <= limit * scale, `${difference} of ${scale}`)
      backend.close()

      const run = openExportedRun(directory, undefined, () => {})
      const back = join(folder, `${name}-back`)
      const silent = { shardBytes: 5e9, progress: () => {}, note: () => {} }
      await targets.hf!.write(run, tokenizer, back, { ...silent, dtype })
      run.close()
      const [before, after] = [tensorsOf(there), tensorsOf(back)]
      assert.deepEqual([...after.keys()].sort(), [...before.keys()].sort())
      for (const [tensor, { dtype: stored, shape, data }] of before) {
        const { dtype: again, shape: size, data: bytes } = after.get(tensor)!
        assert.deepEqual([again, size, Buffer.compare(bytes, data)], [stored, shape, 0], tensor)
      }
    })
})
