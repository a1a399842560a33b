import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import type { RunConfig } from '../src/config/schema.ts'
import { architectureFor, checkpointParts } from '../src/export/architectures.ts'
import { parsePythonJson } from '../src/export/hf_folder.ts'
import { importedPreset, importRun } from '../src/export/import.ts'
import { type ExportOptions, targets } from '../src/export/targets.ts'
import { openExportedRun } from '../src/export/weights.ts'
import { roundBf16 } from '../src/formats/bf16.ts'
import { readCheckpoint } from '../src/run/checkpoint.ts'
import { openRun } from '../src/run/open.ts'
import { readRun } from '../src/run/read.ts'
import { floatsOf, openSafetensors, readSafetensors, writeSafetensors } from '../src/tensor/safetensors.ts'
import { runCli } from './cli.ts'
import { configOf, dense, hybrid, makeRun, ownFolder, tokenizer, weightsOf } from './exported_runs.ts'

const folder = ownFolder()
const options: ExportOptions = { dtype: 'f32', shardBytes: 5e9, progress: () => {}, note: () => {} }
const quiet = () => {}

async function exportHf(run: string, name: string, changes: Partial<ExportOptions> = {}): Promise<string> {
  const opened = openExportedRun(run, undefined, quiet)
  const out = join(folder, name)
  try {
    await targets.hf!.write(opened, tokenizer, out, { ...options, ...changes })
  } finally {
    opened.close()
  }
  return out
}

const origin = { halfbyte: '0.0.0', device: {}, corpus: 'none', imported: 'elsewhere' }
const importAs = async (from: string, name: string, ...overrides: string[]): Promise<string> => {
  const config = configOf(importedPreset(from), ...overrides)
  const directory = join(folder, name)
  await importRun(from, directory, config, origin)
  return directory
}

const runs = {
  hybrid: makeRun(join(folder, 'hybrid'), configOf(hybrid)),
  dense: makeRun(join(folder, 'dense'), configOf(dense)),
}

const bytes = (path: string) => readFileSync(path)

describe('export to Hugging Face', () => {
  it('writes every parameter under its name there, q, k and v apart', async () => {
    const { tensors } = readSafetensors(bytes(join(await exportHf(runs.hybrid, 'hf'), 'model.safetensors')))
    const values = (name: string) => floatsOf(tensors.get(name)!)!
    const qkv = weightsOf('backbone.layers.1.mixer.qkv_proj.weight', [128, 64])
    assert.deepEqual(values('backbone.layers.1.mixer.q_proj.weight'), qkv.subarray(0, 64 * 64))
    assert.deepEqual(values('backbone.layers.1.mixer.k_proj.weight'), qkv.subarray(64 * 64, 96 * 64))
    assert.deepEqual(values('backbone.layers.1.mixer.v_proj.weight'), qkv.subarray(96 * 64))
    assert.deepEqual(tensors.get('backbone.layers.0.mixer.conv1d.weight')!.shape, [128, 1, 4])
    const name = 'backbone.layers.0.mixer.in_proj.weight'
    assert.deepEqual(values(name), weightsOf(name, [196, 64]))
    assert.equal(tensors.size, 2 + 1 + 5 + 2 * 8 + 4 + 2 * 2)
    const config = JSON.parse(readFileSync(join(folder, 'hf', 'config.json'), 'utf8'))
    assert.deepEqual([config.layer_norm_epsilon, config.time_step_min], [1e-6, 1e-30])
  })

  it('names an attention block and the FFN after it as a layer where positions are rotary', async () => {
    const { tensors } = readSafetensors(bytes(join(await exportHf(runs.dense, 'arcee'), 'model.safetensors')))
    const layer = ['input_layernorm', 'mlp.down_proj', 'mlp.up_proj', 'post_attention_layernorm'].concat(
      ['k', 'o', 'q', 'v'].map(part => `self_attn.${part}_proj`),
    )
    const wanted = [0, 1].flatMap(i => layer.map(name => `model.layers.${i}.${name}.weight`))
    wanted.push('lm_head.weight', 'model.embed_tokens.weight', 'model.norm.weight')
    assert.deepEqual([...tensors.keys()].sort(), wanted.sort())
    const config = JSON.parse(readFileSync(join(folder, 'arcee', 'config.json'), 'utf8'))
    assert.deepEqual(
      [config.architectures, config.hidden_act, config.rope_parameters.rope_theta, config.num_hidden_layers],
      [['ArceeForCausalLM'], 'relu2', 10000, 2],
    )
    assert.equal(config.rms_norm_eps, 1e-6)
    const read = (changes: object) => {
      writeFileSync(join(folder, 'arcee', 'config.json'), JSON.stringify({ ...config, ...changes }))
      return importedPreset(join(folder, 'arcee')).model
    }
    assert.deepEqual(read({}), read({ rope_parameters: undefined, rope_theta: 10000 }))
    assert.equal(read({ head_dim: 32 })!.head_dim, 32)
    assert.throws(() => read({ tie_word_embeddings: true }), /tie_word_embeddings: found true, wanted false/)
    assert.throws(
      () => read({ rope_parameters: { rope_type: 'default', rope_theta: 1, partial_rotary_factor: 0.5 } }),
      /rope_parameters: found .*, wanted the default rotation of whole heads/,
    )
  })

  it('cuts into shards that an index lists, none beyond the size but a single tensor', async () => {
    const out = await exportHf(runs.hybrid, 'sharded', { shardBytes: 60_000 })
    const { metadata, weight_map } = JSON.parse(readFileSync(join(out, 'model.safetensors.index.json'), 'utf8'))
    const files = [...new Set(Object.values(weight_map) as string[])]
    let total = 0
    for (const [i, name] of files.entries()) {
      assert.equal(
        name,
        `model-${String(i + 1).padStart(5, '0')}-of-${String(files.length).padStart(5, '0')}.safetensors`,
      )
      const { tensors } = readSafetensors(bytes(join(out, name)))
      const size = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0)
      assert.ok(size <= 60_000 || tensors.size === 1, name)
      for (const tensor of tensors.keys()) assert.equal(weight_map[tensor], name)
      total += size
    }
    assert.ok(files.length > 3)
    assert.equal(total, metadata.total_size)
  })

  it('rounds to BF16 where asked', async () => {
    const out = await exportHf(runs.hybrid, 'bf16', { dtype: 'bf16' })
    const { tensors } = readSafetensors(bytes(join(out, 'model.safetensors')))
    const head = tensors.get('lm_head.weight')!
    assert.equal(head.dtype, 'BF16')
    assert.deepEqual(floatsOf(head), weightsOf('lm_head.weight', [272, 64]).map(roundBf16))
    assert.equal(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')).torch_dtype, 'bfloat16')
  })

  it('says why a model is of no architecture', async () => {
    const { model } = configOf(hybrid, 'model.rope=10000')
    assert.throws(
      () => architectureFor(model),
      /NemotronHForCausalLM has no rotary positions, ArceeForCausalLM is layers of/,
    )
    const narrow = configOf(dense, 'model.heads=6', 'model.kv_heads=6').model
    assert.throws(() => architectureFor(narrow), /wants hidden \(64\) to be a multiple of heads \(6\)/)
  })

  it('leaves nothing behind where writing fails, and overwrites nothing', async () => {
    const config = configOf(hybrid)
    const run = makeRun(join(folder, 'short'), config)
    const opened = openExportedRun(run, undefined, quiet)
    opened.close()
    await assert.rejects(targets.hf!.write(opened, tokenizer, join(folder, 'failed', 'hf'), options))
    assert.deepEqual(readdirSync(join(folder, 'failed')), [])
    await exportHf(runs.hybrid, 'once')
    await assert.rejects(exportHf(runs.hybrid, 'once'), /once exists already; a new name is wanted/)
  })
})

describe('an export to an empty folder', () => {
  it('leaves what has come into it meanwhile', async () => {
    const out = join(folder, 'meanwhile')
    const kept = join(out, 'of somebody else')
    mkdirSync(out)
    await assert.rejects(
      exportHf(runs.hybrid, 'meanwhile', { progress: () => writeFileSync(kept, '') }),
      /^UserError: .*meanwhile cannot be written: ENOTEMPTY/,
    )
    assert.deepEqual([readdirSync(out), existsSync(`${out}.partial`)], [['of somebody else'], false])
    rmSync(kept)
    await exportHf(runs.hybrid, 'meanwhile')
    assert.ok(existsSync(join(out, 'config.json')))
  })
})

describe('an export that is stopped', () => {
  for (const [target, name] of [
    ['hf', 'stopped'],
    ['gguf', 'stopped.gguf'],
  ] as const)
    it(`leaves nothing behind: ${target}`, async () => {
      const opened = openExportedRun(runs.hybrid, undefined, quiet)
      const controller = new AbortController()
      /** Slow enough that the loop has a turn, after which the signal is looked at. */
      const progress = () => {
        controller.abort(new Error('enough'))
        const until = performance.now() + 60
        while (performance.now() < until);
      }
      const { signal } = controller
      const out = join(folder, 'stop', name)
      await assert.rejects(targets[target]!.write(opened, tokenizer, out, { ...options, progress, signal }), /enough/)
      assert.deepEqual(readdirSync(join(folder, 'stop')), [])
      opened.close()
    })
})

describe('import from Hugging Face', () => {
  for (const [name, run] of Object.entries(runs))
    for (const dtype of ['f32', 'bf16'] as const)
      it(`gives back the same bytes in ${dtype}: ${name}`, async () => {
        const there = await exportHf(run, `there-${name}-${dtype}`, { dtype, shardBytes: 60_000 })
        const back = await exportHf(await importAs(there, `run-${name}-${dtype}`), `back-${name}-${dtype}`, {
          dtype,
          shardBytes: 60_000,
        })
        const files = readdirSync(there).filter(file => /safetensors|^config/.test(file))
        assert.ok(files.length > 3)
        for (const file of files) assert.deepEqual(bytes(join(back, file)), bytes(join(there, file)), file)
      })

  it('takes names that begin with model., as transformers has them in memory', async () => {
    const there = await exportHf(runs.hybrid, 'named')
    const { tensors } = readSafetensors(bytes(join(there, 'model.safetensors')))
    const renamed = new Map([...tensors].map(([name, tensor]) => [name.replace(/^backbone/, 'model'), tensor]))
    writeSafetensors(join(there, 'model.safetensors'), renamed)
    const weights = openSafetensors(readCheckpoint(await importAs(there, 'run-named'), 0).files.model!)
    const name = 'backbone.layers.1.mixer.qkv_proj.weight'
    assert.deepEqual(floatsOf(weights.read(name)), weightsOf(name, [128, 64]))
    weights.close()
  })

  it('makes a run of no steps that training opens, and not without its checkpoint', async () => {
    const directory = await importAs(await exportHf(runs.hybrid, 'first'), 'run', 'steps=7', 'recipe=bf16')
    const { config, origin: stored } = readRun(directory)
    assert.deepEqual([config.steps, config.recipe, config.data.sequence, stored.imported], [7, 'bf16', 32, 'elsewhere'])
    const { state, files } = readCheckpoint(directory, 0)
    assert.deepEqual(state, { step: 0, seed: 1, tokens: 0 })
    const moments = openSafetensors(files.optimizer!)
    assert.ok(moments.read('lm_head.weight.second').data.every(byte => byte === 0))
    moments.close()
    const opened = openRun(directory, config, origin)
    assert.equal(opened.startStep, 0)
    opened.close()
    const cut = join(folder, 'cut')
    cpSync(directory, cut, { recursive: true, filter: path => !path.includes('checkpoints') })
    assert.throws(
      () => openRun(cut, config, origin),
      /began with the weights of elsewhere, and has no checkpoint any more/,
    )
  })

  it('leaves nothing behind where it is stopped', async () => {
    const there = await exportHf(runs.hybrid, 'to-be-stopped')
    const controller = new AbortController()
    const progress = (done: number, total: number) => {
      assert.ok(done <= total)
      controller.abort(new Error('enough'))
      const until = performance.now() + 60
      while (performance.now() < until);
    }
    const { signal } = controller
    const config = readRun(runs.hybrid).config
    const out = join(folder, 'stopped-import', 'run')
    await assert.rejects(importRun(there, out, config, origin, { progress, signal }), /enough/)
    assert.deepEqual(readdirSync(join(folder, 'stopped-import')), [])
  })

  it('reads infinities as Python and transformers write them', async () => {
    assert.deepEqual(parsePythonJson('{"a": [0.0, Infinity], "b": -Infinity, "c": NaN, "d": "Infinity \\" NaN"}'), {
      a: [0, Number.POSITIVE_INFINITY],
      b: Number.NEGATIVE_INFINITY,
      c: null,
      d: 'Infinity " NaN',
    })
    assert.equal(parsePythonJson('{"__float__": "Infinity"}'), Number.POSITIVE_INFINITY)
  })

  let hub = ''
  before(async () => {
    hub = await exportHf(runs.hybrid, 'hub')
  })
  /** The config of the export with some keys changed. */
  const changed = (name: string, change: (config: Record<string, unknown>) => string | object): string => {
    const copy = join(folder, name)
    cpSync(hub, copy, { recursive: true })
    const config = change(JSON.parse(readFileSync(join(hub, 'config.json'), 'utf8')))
    writeFileSync(join(copy, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config))
    return copy
  }

  it('takes a list of block types and limits that do not bind', async () => {
    const lists = changed('lists', ({ hybrid_override_pattern: _, ...config }) =>
      JSON.stringify({
        ...config,
        layers_block_type: ['linear_attention', 'full_attention', 'mlp', 'mamba', 'mlp'],
        time_step_limit: [0, 'INF'],
      }).replace('"INF"', 'Infinity'),
    )
    const long = changed('long', ({ max_position_embeddings: _, ...config }) => ({
      ...config,
      max_position_embeddings: 100,
    }))
    assert.equal(importedPreset(long).data.sequence, 96)
    const config = configOf(importedPreset(lists))
    assert.deepEqual(config.model, { ...configOf(hybrid).model, init_std: 0.05 } satisfies RunConfig['model'])
  })

  const refused: [name: string, change: (config: Record<string, unknown>) => string | object, sentence: RegExp][] = [
    ['not-json', () => '{', /config\.json is not JSON$/],
    [
      'llama',
      c => ({ ...c, architectures: ['LlamaForCausalLM'], model_type: 'llama' }),
      /found LlamaForCausalLM, wanted NemotronHForCausalLM or ArceeForCausalLM/,
    ],
    ['bias', c => ({ ...c, mlp_bias: true }), /mlp_bias: found true, wanted false/],
    ['act', c => ({ ...c, mlp_hidden_act: 'silu' }), /mlp_hidden_act: found "silu", wanted "relu2"/],
    ['tied', c => ({ ...c, tie_word_embeddings: true }), /tie_word_embeddings: found true, wanted false/],
    [
      'experts',
      c => ({ ...c, hybrid_override_pattern: 'M*EM-' }),
      /hybrid_override_pattern: found "M\*EM-", wanted a string of M/,
    ],
    ['limit', c => ({ ...c, time_step_limit: [0, 0.1] }), /time_step_limit: found \[0,0\.1\], wanted \[0, Infinity\]/],
    ['quantised', c => ({ ...c, quantization_config: {} }), /found quantization_config, wanted a checkpoint in floats/],
    ['sizes', c => ({ ...c, hidden_size: '64' }), /hidden_size: found "64", wanted a whole number above 0/],
    [
      'shape',
      c => ({ ...c, ssm_state_size: 32 }),
      /tensor backbone\.layers\.0\.mixer\.in_proj\.weight: found \[196, 64\], wanted \[260, 64\]/,
    ],
    [
      'missing',
      c => ({ ...c, hybrid_override_pattern: 'M*-M-*' }),
      /tensor backbone\.layers\.5\.norm\.weight is missing, wanted \[64\]/,
    ],
    [
      'extra',
      c => ({ ...c, hybrid_override_pattern: 'M*-M' }),
      /tensor backbone\.layers\.4\.\S+ is none that the model has/,
    ],
  ]
  for (const [name, change, sentence] of refused)
    it(`refuses in one sentence: ${name}`, async () => {
      const from = changed(name, change)
      await assert.rejects(importAs(from, `run-${name}`), sentence)
      assert.ok(!existsSync(join(folder, `run-${name}`)) && !existsSync(join(folder, `run-${name}.partial`)))
    })

  it('refuses shards that are not as the index says, headers that lie and tensors that are no floats', async () => {
    const shards = await exportHf(runs.dense, 'shards', { shardBytes: 60_000 })
    const index = join(shards, 'model.safetensors.index.json')
    const text = readFileSync(index, 'utf8')
    writeFileSync(index, text.replace(/model-00001-of-/g, 'model-00009-of-'))
    await assert.rejects(
      importAs(shards, 'run-shards'),
      /model-00009-of-\d+\.safetensors is missing, which model\.safetensors\.index\.json names/,
    )
    writeFileSync(index, text.replace('"lm_head.weight"', '"lm_tail.weight"'))
    await assert.rejects(importAs(shards, 'run-shards'), /has a tensor lm_head\.weight that .* does not place there/)
    const lying = changed('lying', config => config)
    const file = readFileSync(join(lying, 'model.safetensors'))
    file.writeBigUInt64LE(2n ** 40n, 0)
    writeFileSync(join(lying, 'model.safetensors'), file)
    await assert.rejects(importAs(lying, 'run-lying'), /model\.safetensors: the header claims 1099511627776 bytes/)
    const parts = checkpointParts(configOf(hybrid).model, { tensorName: name => name })
    const ints = new Map(
      parts.map(({ name, shape }) => [
        name,
        { dtype: 'U8' as const, shape, data: new Uint8Array(shape.reduce((product, n) => product * n, 1)) },
      ]),
    )
    writeSafetensors(join(lying, 'model.safetensors'), ints)
    await assert.rejects(
      importAs(lying, 'run-lying'),
      /tensor backbone\.embeddings\.weight: found U8, wanted F32, BF16 or F16/,
    )
  })
})

describe('halfbyte export and import', () => {
  it('write, print JSON, and name what is wrong', async () => {
    const out = join(folder, 'cli')
    const exported = runCli(['export', runs.hybrid, '--to', 'hf', '--out', out, '--json'])
    assert.equal(exported.status, 0, exported.stderr)
    assert.deepEqual(JSON.parse(exported.stdout), { out, to: 'hf', step: 10, tensors: 32, bytes: 459872 })
    const again = runCli(['import', out, '--run', join(folder, 'cli-run'), 'data.batch=2', '--json'])
    assert.equal(again.status, 0, again.stderr)
    assert.equal(JSON.parse(again.stdout).pattern, 'M*-M-')
    for (const [args, status, sentence] of [
      [['export', runs.hybrid, '--to', 'onnx', '--out', 'x'], 2, /--to: found "onnx", wanted one of hf, /],
      [['export', runs.hybrid, '--to', 'hf', '--out', out], 1, /exists already/],
      [
        ['export', runs.hybrid, '--to', 'hf', '--out', 'x', '--shard-size', 'big'],
        2,
        /found big, wanted a size such as/,
      ],
      [['import', join(folder, 'nowhere')], 1, /nowhere does not exist/],
      [['import', out, 'model.pattern=M'], 1, /is none that the model has/],
    ] as const) {
      const { status: found, stderr } = runCli(args)
      assert.deepEqual([found, sentence.test(stderr)], [status, true], stderr)
    }
  })
})
