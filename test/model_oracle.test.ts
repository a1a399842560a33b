import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import type { ModelConfig } from '../src/model/config.ts'
import { Model } from '../src/model/model.ts'
import { findRecipe } from '../src/recipes/recipes.ts'
import { floatsOf, readSafetensors } from '../src/tensor/safetensors.ts'
import { bothBackends } from './backends.ts'
import { makeBatch } from './models.ts'

/** Against PyTorch and transformers in FP32: test/oracle/make_oracle.py. */

const common = {
  hidden: 48,
  ffn: 96,
  heads: 4,
  kv_heads: 2,
  head_dim: 16,
  mamba_heads: 8,
  mamba_head_dim: 8,
  groups: 2,
  state: 16,
  conv: 4,
  chunk: 16,
  vocab: 80,
  activations: 'f32',
  eps: 1e-5,
  init_std: 0.1,
} as const

const oracles: Readonly<Record<string, ModelConfig>> = {
  hybrid: { ...common, pattern: 'M-*M-', rope: false },
  dense: { ...common, pattern: '*-*-', rope: 10000 },
}

const sequence = 40
const relative = 1e-4

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0))
const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!)), 0)

const { reference, cpu } = await bothBackends()

describe('oracle', () => {
  for (const [name, config] of Object.entries(oracles))
    it(`${name}: logits, loss and gradients are PyTorch's`, () => {
      const bytes = readFileSync(join(packageRoot(), 'test', 'oracle', `${name}.safetensors`))
      const { tensors } = readSafetensors(bytes)
      const stored = (key: string): Float32Array => floatsOf(tensors.get(key)!)!
      /** q, k and v are one parameter here. */
      const wanted = (key: string): Float32Array => {
        if (!key.includes('qkv_proj')) return stored(key)
        const parts = ['q_proj', 'k_proj', 'v_proj'].map(part => stored(key.replace('qkv_proj', part)))
        return Float32Array.from(parts.flatMap(part => [...part]))
      }
      const raw = tensors.get('tokens')!.data
      const tokens = Int32Array.from(new Int32Array(raw.slice().buffer))
      for (const backend of [reference, cpu]) {
        const model = new Model({
          config,
          backend,
          recipe: findRecipe('fp32'),
          seed: 1,
          steps: 1,
          sequence,
          tokens: tokens.length,
        })
        for (const parameter of model.parameters.all) parameter.value.write(wanted(parameter.name))
        model.weightsChanged()
        const batch = makeBatch(backend, tokens, sequence)
        const wantedLogits = stored('logits')
        const logits = model.logits(batch.tokens, batch.starts, sequence, model.recipe)
        const scale = wantedLogits.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
        assert.ok(largestDifference(logits, wantedLogits) <= relative * scale, `${backend.name}: logits`)

        model.setScale(1 / (tokens.length - tokens.length / sequence))
        model.loss(batch, 0)
        const [sum, count] = model.lossSum.floats() as unknown as [number, number]
        const loss = stored('loss')[0]!
        assert.ok(Math.abs(sum / count - loss) <= relative * loss, `${backend.name}: loss ${sum / count}, not ${loss}`)
        for (const { name: key, gradient } of model.parameters.all) {
          const got = gradient.floats()
          const want = wanted(`gradient.${key}`)
          const size = norm(want)
          assert.ok(size > 0, key)
          assert.ok(
            Math.abs(norm(got) - size) <= relative * size,
            `${backend.name}: ${key} has norm ${norm(got)}, not ${size}`,
          )
          assert.ok(norm(got.map((g, i) => g - want[i]!)) <= relative * size, `${backend.name}: gradient of ${key}`)
        }
        assert.equal(model.tape.arena.live, 0)
      }
    })
})
