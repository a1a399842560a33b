import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import type { RunPreset } from '../src/config/schema.ts'
import { type GgufTensor, ggufHeader } from '../src/export/gguf.ts'
import { type GgufEntry, parseGguf } from '../src/export/gguf_header.ts'
import { readHfConfig } from '../src/export/hf_folder.ts'
import { quantisedLayers, type WeightImage, WeightImages } from '../src/export/images.ts'
import { targets } from '../src/export/targets.ts'
import { openExportedRun } from '../src/export/weights.ts'
import { decodeBf16, roundBf16 } from '../src/formats/bf16.ts'
import { decode, e2m1, e4m3 } from '../src/formats/minifloat.ts'
import { codeAt } from '../src/formats/quantize.ts'
import { configOf, dense, hybrid, makeRun, ownFolder, tokenizer, weightsOf } from './exported_runs.ts'

const folder = ownFolder()

interface Stored extends GgufEntry {
  readonly data: Buffer
}

function readGguf(bytes: Buffer): { metadata: ReadonlyMap<string, unknown>; tensors: Map<string, Stored> } {
  const { metadata, tensors } = parseGguf(bytes, bytes.length)
  const stored = [...tensors].map(([name, entry]): [string, Stored] => {
    assert.equal(entry.start % 32, 0)
    return [name, { ...entry, data: bytes.subarray(entry.start, entry.end) }]
  })
  return { metadata, tensors: new Map(stored) }
}

let runs = 0
async function exported(target: string, preset: RunPreset, inputs: Readonly<Record<string, number>> = {}) {
  const notes: string[] = []
  const run = openExportedRun(makeRun(join(folder, `run-${++runs}`), configOf(preset), { inputs }), 10, () => {})
  const out = join(folder, `${runs}.gguf`)
  try {
    const options = {
      dtype: 'bf16',
      shardBytes: 0,
      progress: () => {},
      note: (text: string) => notes.push(text),
    } as const
    const result = await targets[target]!.write(run, tokenizer, out, options)
    const images = new WeightImages(run.weights, quantisedLayers(run.config, 10))
    const all = new Map<string, WeightImage>()
    const scales = new Map<string, number>()
    for (const parameter of quantisedLayers(run.config, 10).keys()) {
      all.set(parameter, images.of(parameter))
      scales.set(parameter, Math.fround(images.amax(parameter) / images.bound(parameter)))
    }
    return { ...readGguf(readFileSync(out)), result, images: all, scales, notes }
  } finally {
    run.close()
  }
}

const floats = ({ type, data }: Stored): number[] =>
  type === 'f32'
    ? [...new Float32Array(Uint8Array.from(data).buffer)]
    : [...new Uint16Array(Uint8Array.from(data).buffer)].map(decodeBf16)

/** Values of NVFP4 blocks as ggml defines them: sixteens of 8 bytes, element j low and j + 8 high, beside a scale each. */
function decodeNvfp4({ data, shape }: Stored): number[][] {
  const [rows, cols] = shape as [number, number]
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: cols }, (_, col) => {
      const at = ((row * cols + (col - (col % 64))) / 64) * 36
      const [sixteen, j] = [(col % 64) >> 4, col % 16]
      const byte = data[at + 4 + sixteen * 8 + (j % 8)]!
      return decode(e2m1, j < 8 ? byte & 15 : byte >> 4) * decode(e4m3, data[at + sixteen]!)
    }),
  )
}

const imageRow = ({ cols, codes, scales }: WeightImage, row: number): number[] =>
  Array.from(
    { length: cols },
    (_, col) => decode(e2m1, codeAt(codes, 4, row * cols + col)) * decode(e4m3, scales[(row * cols + col) >> 4]!),
  )

describe('export to GGUF', () => {
  it('writes the codes and scales of training in blocks, a factor beside each', async () => {
    const name = 'backbone.layers.1.mixer.qkv_proj.weight'
    const { tensors, images, scales, result } = await exported('gguf', hybrid, { 'layers.1.mixer.qkv_proj': 5.25 })
    const rows = ['q', 'k', 'v'].flatMap(part => decodeNvfp4(tensors.get(`blk.1.attn_${part}.weight`)!))
    assert.deepEqual(
      rows,
      rows.map((_, row) => imageRow(images.get(name)!, row)),
    )
    for (const part of ['q', 'k', 'v']) {
      assert.deepEqual(floats(tensors.get(`blk.1.attn_${part}.scale`)!), [scales.get(name)])
      assert.deepEqual(floats(tensors.get(`blk.1.attn_${part}.input_scale`)!), [Math.fround(5.25 / 2688)])
    }
    assert.ok(!tensors.has('blk.0.ssm_in.input_scale'))
    assert.deepEqual(tensors.get('blk.0.ssm_in.weight')!.shape, [196, 64])
    assert.deepEqual([result.packed!.quantised, result.packed!.inputs], [8, false])
    assert.ok(result.packed!.bf16Bytes / result.packed!.quantisedBytes > 3.5)
  })

  it('writes what is not quantised as llama.cpp has it', async () => {
    const { tensors, metadata } = await exported('gguf', hybrid)
    const stored = (name: string) => floats(tensors.get(name)!)
    const prefix = 'backbone.layers.0.mixer.'
    assert.deepEqual(
      stored('blk.0.ssm_a'),
      [...weightsOf(`${prefix}A_log`, [4])].map(v => Math.fround(-Math.exp(v))),
    )
    assert.deepEqual(tensors.get('blk.0.ssm_a')!.shape, [4, 1])
    assert.deepEqual(tensors.get('blk.0.ssm_conv1d.weight')!.shape, [128, 4])
    assert.deepEqual(tensors.get('blk.0.ssm_norm.weight')!.shape, [2, 32])
    assert.deepEqual(stored('blk.0.ssm_dt.bias'), [...weightsOf(`${prefix}dt_bias`, [4])])
    assert.equal(tensors.get('blk.4.ffn_up.weight')!.type, 'bf16')
    assert.deepEqual(stored('output.weight'), [...weightsOf('lm_head.weight', [272, 64])].map(roundBf16))
    assert.deepEqual(metadata.get('nemotron_h.attention.head_count_kv'), [0, 2, 0, 0, 0])
    assert.deepEqual(metadata.get('nemotron_h.feed_forward_length'), [0, 0, 128, 0, 128])
    assert.deepEqual(metadata.get('nemotron_h.ssm.inner_size'), 64)
  })

  it('turns the rows of rotated heads to neighbouring pairs, in floats and in codes', async () => {
    const name = 'backbone.layers.2.mixer.qkv_proj.weight'
    const preset = { ...dense, model: { ...dense.model, bf16_blocks: [2, 0] as [number, number] } }
    const { tensors, images, metadata, notes } = await exported('gguf', preset)
    const rotated = decodeNvfp4(tensors.get('blk.1.attn_k.weight')!)
    const rows = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    for (const head of [0, 1])
      for (const [i, row] of rows.entries())
        assert.deepEqual(rotated[head * 16 + i], imageRow(images.get(name)!, 64 + head * 16 + row))
    const plain = decodeNvfp4(tensors.get('blk.1.attn_v.weight')!)
    assert.deepEqual(plain[1], imageRow(images.get(name)!, 97))
    const first = weightsOf('backbone.layers.0.mixer.qkv_proj.weight', [128, 64])
    const q = floats(tensors.get('blk.0.attn_q.weight')!)
    assert.deepEqual(q.slice(64, 128), [...first.subarray(8 * 64, 9 * 64)].map(roundBf16))
    assert.equal(metadata.get('arcee.block_count'), 2)
    assert.equal(tensors.get('blk.1.ffn_up.weight')!.type, 'bf16')
    assert.deepEqual(notes, [
      "2 layers, layers.3.mixer.up_proj the first, stay in floats: llama.cpp's arcee has no scale beside a tensor in nvfp4 there",
    ])
    assert.equal(metadata.get('arcee.rope.freq_base'), 10000)
  })

  it('keeps what blocks do not divide in floats and says so', async () => {
    const narrow = { ...hybrid, model: { ...hybrid.model, hidden: 96, head_dim: 16 } }
    const { tensors, notes, result } = await exported('gguf', narrow)
    assert.equal(tensors.get('blk.0.ssm_in.weight')!.type, 'bf16')
    assert.equal(tensors.get('blk.2.ffn_down.weight')!.type, 'nvfp4')
    assert.deepEqual(notes, [
      "4 layers, layers.0.mixer.in_proj the first, stay in floats: GGUF's blocks of nvfp4 do not divide 96 inputs",
    ])
    assert.equal(result.packed!.quantised, 8 - 4)
  })

  it('has MXFP4, and floats alone where the recipe or the layout wants them', async () => {
    assert.equal(
      (await exported('gguf', { ...hybrid, recipe: 'mxfp4' })).tensors.get('blk.0.ssm_in.weight')!.type,
      'mxfp4',
    )
    for (const [target, recipe] of [
      ['gguf', 'bf16'],
      ['gguf-float', 'nvfp4'],
    ] as const) {
      const { tensors, result, metadata } = await exported(target, { ...hybrid, recipe })
      assert.deepEqual([...new Set([...tensors.values()].map(({ type }) => type))].sort(), ['bf16', 'f32'])
      assert.deepEqual([result.packed, metadata.get('general.file_type')], [undefined, 32])
    }
  })

  it('writes the tokenizer, a token for every row', async () => {
    const { metadata } = await exported('gguf', hybrid)
    const get = (key: string) => metadata.get(`tokenizer.ggml.${key}`)
    const [tokens, types] = [get('tokens'), get('token_type')] as [string[], number[]]
    assert.deepEqual([tokens.length, tokens.slice(0, 4), tokens[256]], [272, ['a', 'b', 'ab', '[PAD3]'], '<|end|>'])
    assert.deepEqual([types.length, types.slice(0, 4), types[256]], [272, [1, 1, 1, 5], 3])
    assert.deepEqual([get('merges'), get('pre'), get('eos_token_id')], [['a b'], 'gpt-2', 256])
  })

  it('knows which of llama.cpp’s architectures has a model', async () => {
    const plain = await exported('gguf', { ...dense, model: { ...dense.model, rope: false } })
    assert.equal(plain.metadata.get('general.architecture'), 'arcee')
    assert.equal(plain.metadata.get('arcee.rope.scaling.type'), 'linear')
    const [k, wanted] = [
      plain.tensors.get('blk.0.attn_k.weight')!,
      plain.images.get('backbone.layers.0.mixer.qkv_proj.weight')!,
    ]
    assert.deepEqual(decodeNvfp4(k)[1], imageRow(wanted, 65))
    await assert.rejects(
      exported('gguf', { ...hybrid, model: { ...hybrid.model, rope: 10000 } }),
      /no architecture of llama\.cpp has this model: nemotron_h has no rotary positions, arcee is layers of/,
    )
  })

  it('leaves nothing behind where a tensor fails', async () => {
    const run = openExportedRun(makeRun(join(folder, 'closed'), configOf(hybrid)), 10, () => {})
    run.close()
    const out = join(folder, 'failed.gguf')
    const options = { dtype: 'bf16', shardBytes: 0, progress: () => {}, note: () => {} } as const
    await assert.rejects(targets['gguf-float']!.write(run, tokenizer, out, options))
    assert.ok(!existsSync(out) && !existsSync(`${out}.partial`))
  })
})

describe('a GGUF header', () => {
  const tensor = (name: string, type: GgufTensor['type'], shape: number[]): GgufTensor => ({
    name,
    type,
    shape,
    data: () => [],
  })
  const metadata = {
    'general.architecture': { type: 'string', value: 'arcee' },
    list: { type: 'i32[]', value: [1, -2] },
  } as const
  const good = (...tensors: GgufTensor[]) => Buffer.from(ggufHeader(metadata, tensors))
  /** With `bytes` written at the first place where `before` ends. */
  const changed = (before: string, bytes: readonly number[], skip = 0): Buffer => {
    const header = Buffer.concat([good(tensor('w', 'nvfp4', [3, 64])), Buffer.alloc(128)])
    Buffer.from(bytes).copy(header, header.indexOf(before) + before.length + skip)
    return header
  }
  const many = [255, 255, 255, 255, 255, 0, 0, 0]

  it('is read as it was written', async () => {
    const header = good(tensor('a', 'f32', [2, 3]), tensor('b', 'nvfp4', [3, 64]))
    const { metadata: read, tensors } = parseGguf(header, header.length + 24 + 8 + 108)
    assert.deepEqual(Object.fromEntries(read), { 'general.architecture': 'arcee', list: [1, -2] })
    const start = header.length
    assert.deepEqual(tensors.get('a'), { type: 'f32', shape: [2, 3], start, end: start + 24 })
    assert.deepEqual(tensors.get('b'), { type: 'nvfp4', shape: [3, 64], start: start + 32, end: start + 140 })
  })

  const lies: [what: string, bytes: Buffer, sentence: RegExp][] = [
    ['no GGUF', Buffer.alloc(64), /does not begin with "GGUF"/],
    ['another version', changed('GGUF', [9]), /its version is 9, wanted 2 or 3/],
    [
      'more tensors than there are',
      changed('GGUF', many, 4),
      /it says that it has 1099511627775 tensors and 2 keys, more than its \d+ bytes hold/,
    ],
    [
      'a key without end',
      changed('GGUF', many, 20),
      /header ends at byte \d+, within key 0 of 2 that would take 1099511627775 bytes/,
    ],
    [
      'a type that there is not',
      changed('general.architecture', [77]),
      /general\.architecture has the unknown type 77/,
    ],
    [
      'a list longer than the file',
      changed('list', many, 8),
      /list is a list of 1099511627775, but only \d+ bytes follow/,
    ],
    ['five dimensions', changed('w', [5]), /tensor w has 5 dimensions/],
    ['rows of no whole blocks', changed('w', [65], 4), /tensor w has rows of 65 elements, no whole blocks of 64/],
    ['a tensor beyond the end', changed('w', [0, 16], 12), /tensor w ends at byte \d+, but the file has \d+/],
    ['a type of tensors that there is not', changed('w', [200], 20), /tensor w has the type 200/],
  ]
  for (const [what, bytes, sentence] of lies)
    it(`that lies is refused: ${what}`, async () => {
      assert.throws(() => parseGguf(bytes, bytes.length), sentence)
    })

  it('is looked at before import says what it wants', async () => {
    const path = join(folder, 'model.gguf')
    writeFileSync(path, changed('w', [5]))
    assert.throws(() => readHfConfig(path), /model\.gguf is no GGUF file that can be read: tensor w has 5 dimensions/)
    writeFileSync(path, changed('w', [2]))
    assert.throws(
      () => readHfConfig(path),
      /model\.gguf is a GGUF of arcee, .*; a folder with config\.json and safetensors is wanted/,
    )
  })
})
