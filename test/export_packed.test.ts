import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openBackend, packageRoot } from '../src/backends/open.ts'
import { recipeOf } from '../src/config/rules.ts'
import { inputAmax } from '../src/export/activations.ts'
import { compressedTensors } from '../src/export/compressed_tensors.ts'
import { type BlockType, ggufBlocks } from '../src/export/gguf_blocks.ts'
import { ggufFile } from '../src/export/gguf_export.ts'
import { quantisedLayers, WeightImages } from '../src/export/images.ts'
import { modelopt } from '../src/export/modelopt.ts'
import { divisor, multiplier, packedCheckpoint } from '../src/export/packed.ts'
import { type Exported, type ExportOptions, targets } from '../src/export/targets.ts'
import { openExportedRun, type Weights } from '../src/export/weights.ts'
import { fromBf16, roundBf16 } from '../src/formats/bf16.ts'
import { decode, e2m1, e4m3 } from '../src/formats/minifloat.ts'
import { codeAt } from '../src/formats/quantize.ts'
import { FLT_MAX } from '../src/formats/scales.ts'
import { kernels } from '../src/kernels/index.ts'
import { Model } from '../src/model/model.ts'
import { RecordWriter } from '../src/run/records.ts'
import { floatsOf, readSafetensors, type StoredTensor, type TensorToWrite } from '../src/tensor/safetensors.ts'
import { configOf, hybrid, makeRun, ownFolder, tokenizer, weightsOf } from './exported_runs.ts'

const folder = ownFolder()
const options: ExportOptions = { dtype: 'bf16', shardBytes: 5e9, progress: () => {}, note: () => {} }
const fround = Math.fround

/** Every linear layer of the hybrid, with the largest magnitude of its input. */
const inputs = Object.fromEntries(
  ['0.mixer.in_proj', '0.mixer.out_proj', '1.mixer.qkv_proj', '1.mixer.o_proj', '2.mixer.up_proj', '2.mixer.down_proj']
    .concat(['3.mixer.in_proj', '3.mixer.out_proj', '4.mixer.up_proj', '4.mixer.down_proj'])
    .map((name, i) => [`layers.${name}`, i + 1.5]),
)

let runs = 0
async function exportTo(
  target: string,
  recipe: string,
  more: { readonly inputs?: Readonly<Record<string, number>> } = { inputs },
): Promise<
  Omit<Exported, 'tensors'> & {
    out: string
    tensors: ReadonlyMap<string, StoredTensor>
    config: Record<string, never>
    read(file: string): unknown
  }
> {
  const run = openExportedRun(
    makeRun(join(folder, `run-${++runs}`), configOf(hybrid, `recipe=${recipe}`), more),
    10,
    () => {},
  )
  const out = join(folder, `out-${runs}`)
  try {
    const result = await targets[target]!.write(run, tokenizer, out, options)
    const { tensors } = readSafetensors(readFileSync(join(out, 'model.safetensors')))
    const read = (file: string) => JSON.parse(readFileSync(join(out, file), 'utf8'))
    return { ...result, out, tensors, config: read('config.json'), read }
  } finally {
    run.close()
  }
}

const joined = (parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts))

describe('codes of training', () => {
  for (const recipe of ['nvfp4', 'nvfp4-te', 'nvfp4-4over6', 'nvfp4-no-2d', 'nvfp4-fp32-weights', 'mxfp4'])
    for (const name of recipe === 'nvfp4' ? ['cpu', 'reference'] : ['cpu'])
      it(`are what is exported: ${recipe} on ${name}`, async () => {
        const config = configOf(hybrid, `recipe=${recipe}`)
        const backend = await openBackend(name, kernels, { threads: 1 })
        const model = new Model({
          config: { ...config.model, activations: 'f32' },
          backend,
          recipe: recipeOf(config),
          seed: 1,
          steps: 100,
          sequence: 32,
          tokens: 128,
        })
        for (const { name: parameter, shape, value } of model.parameters.all) value.write(weightsOf(parameter, shape))
        model.weightsChanged()
        const { tensors, packed } = await exportTo('compressed-tensors', recipe)
        const scale = (of: string) => floatsOf(tensors.get(of)!)![0]!
        let compared = 0
        model.tape.recording = false
        for (const linear of model.linears) {
          const [rows, cols] = linear.weight.shape as [number, number]
          const names = linear.name.endsWith('qkv_proj')
            ? ['q', 'k', 'v'].map(part => linear.name.replace('qkv', part))
            : [linear.name]
          const bytes = (suffix: string) => joined(names.map(part => tensors.get(`backbone.${part}.${suffix}`)!.data))
          if (!tensors.has(`backbone.${names[0]}.weight_packed`)) continue
          compared++
          model.tape.scope(() => {
            const { codes, scales, amax, format, bound } = linear.forwardImages(model.tape).row
            const block = format === 'nvfp4' ? 16 : 32
            const [packedCodes, packedScales] = [bytes('weight_packed'), bytes('weight_scale')]
            // What a layer pads its outputs with is cut off.
            assert.deepEqual(packedCodes, (codes.read() as Uint8Array).slice(0, (rows * cols) / 2), linear.name)
            assert.deepEqual(packedScales, (scales.read() as Uint8Array).slice(0, (rows * cols) / block), linear.name)
            const values = linear.forwardValues(model.tape).floats()
            const largest = amax.floats()[0]!
            for (const part of names) {
              if (format !== 'nvfp4') continue
              const global = scale(`backbone.${part}.weight_global_scale`)
              assert.equal(global, fround(bound / largest))
            }
            for (let i = 0; i < rows * cols; i += 7) {
              const stored = packedScales[Math.floor(i / block)]!
              const code = decode(e2m1, codeAt(packedCodes, 4, i))
              const value =
                format === 'nvfp4'
                  ? code * (decode(e4m3, stored) / scale(`backbone.${names[0]}.weight_global_scale`))
                  : code * 2 ** (stored - 127)
              // The decoder divides by a rounded bound / amax, training multiplies by amax: three roundings apart.
              assert.ok(
                Math.abs(value - values[i]!) <= (format === 'nvfp4' ? 2 ** -22 : 0) * Math.abs(value),
                linear.name,
              )
            }
          })
        }
        assert.equal(compared, packed!.quantised)
        assert.ok(compared >= 8)
        backend.close()
      })
})

describe('packed layouts', () => {
  it('divide by what an outer scale is the inverse of, rounded once, finite for zeros and tiny weights', () => {
    assert.deepEqual([divisor(0, 2688), divisor(1e-37, 2688), divisor(3, 2688)], [1, FLT_MAX, 896])
    // In one division: the inverse of the rounded factor would be the next number.
    assert.equal(divisor(0.7, 2688), Math.fround(2688 / 0.7))
    assert.equal(multiplier(0.7, 2688), Math.fround(0.7 / 2688))
  })

  const tensorOf = (tensor: TensorToWrite): string => {
    const given = typeof tensor.data === 'function' ? tensor.data() : tensor.data
    const views = ArrayBuffer.isView(given) ? [given] : [...given]
    return Buffer.concat(
      views.map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength)),
    ).toString('hex')
  }

  it('have the bytes that an independent program makes: test/export/make_packed.py', async () => {
    const fixture = JSON.parse(readFileSync(join(packageRoot(), 'test', 'export', 'packed.json'), 'utf8'))
    const { rows, cols } = fixture as { rows: number; cols: number }
    const values = fromBf16(new Uint16Array(Uint8Array.from(Buffer.from(fixture.weight_bf16, 'hex')).buffer))
    const weights: Weights = { shape: () => [rows, cols], read: (_, from, to) => values.slice(from, to) }
    for (const format of ['nvfp4', 'mxfp4'] as const) {
      const layer = { linear: 'w', weight: { format, round: 'nearest', square: true }, input: undefined } as const
      const images = new WeightImages(weights, new Map([['w', layer]]))
      const image = images.of('w')
      const wanted = fixture[format]
      assert.equal(Buffer.from(ggufBlocks(image, format as BlockType)).toString('hex'), wanted.blocks)
      const outer = { amax: () => images.amax('w'), bound: images.bound('w'), input: 2688 * 3 }
      const packed = compressedTensors.tensors(format, () => image, [rows, cols], outer)
      assert.equal(tensorOf(packed.weight_packed!), wanted.codes)
      assert.equal(tensorOf(packed.weight_scale!), wanted.scales)
      if (format !== 'nvfp4') continue
      assert.equal(tensorOf(packed.weight_global_scale!), wanted.weight_global_scale)
      const { weight, weight_scale, weight_scale_2, input_scale } = modelopt.tensors(
        format,
        () => image,
        [rows, cols],
        outer,
      )
      assert.deepEqual(
        [weight, weight_scale, weight_scale_2].map(tensor => tensorOf(tensor!)),
        [wanted.codes, wanted.scales, wanted.weight_scale_2],
      )
      assert.equal(tensorOf(input_scale!), Buffer.from(Float32Array.of(3).buffer).toString('hex'))
      assert.deepEqual([weight_scale_2!.shape, packed.weight_global_scale!.shape], [[], [1]])
    }
  })

  it('divide in compressed-tensors and multiply in ModelOpt, with one scale for q, k and v', async () => {
    const divided = await exportTo('compressed-tensors', 'nvfp4')
    const multiplied = await exportTo('modelopt', 'nvfp4')
    const value = (of: typeof divided, name: string) => floatsOf(of.tensors.get(`backbone.${name}`)!)![0]!
    const q = value(divided, 'layers.1.mixer.q_proj.weight_global_scale')
    const qkv = weightsOf('backbone.layers.1.mixer.qkv_proj.weight', [128, 64])
    const amax = qkv.reduce((most, v) => Math.max(most, Math.abs(roundBf16(v))), 0)
    assert.equal(q, fround(2688 / amax))
    for (const part of ['k', 'v']) assert.equal(value(divided, `layers.1.mixer.${part}_proj.weight_global_scale`), q)
    for (const part of ['q', 'k', 'v']) {
      const two = value(multiplied, `layers.1.mixer.${part}_proj.weight_scale_2`)
      assert.ok(Math.abs(two * q - 1) < 2 ** -22)
      assert.equal(value(divided, `layers.1.mixer.${part}_proj.input_global_scale`), fround(2688 / 3.5))
      assert.equal(value(multiplied, `layers.1.mixer.${part}_proj.input_scale`), fround(3.5 / 2688))
    }
  })

  it('leave layers that training keeps in BF16 as they are and list them', async () => {
    for (const target of ['compressed-tensors', 'modelopt']) {
      const { tensors, config, packed } = await exportTo(target, 'nvfp4')
      const { ignore } = config.quantization_config as { ignore: string[] }
      assert.deepEqual(ignore, [
        'backbone.embeddings',
        'backbone.layers.0.mixer.conv1d',
        'backbone.layers.3.mixer.conv1d',
        'backbone.layers.4.mixer.up_proj',
        'backbone.layers.4.mixer.down_proj',
        'lm_head',
      ])
      for (const name of ignore) assert.equal(tensors.get(`${name}.weight`)!.dtype, 'BF16')
      assert.deepEqual([packed!.quantised, packed!.linears, packed!.inputs], [8, 10, true])
      assert.ok(packed!.bf16Bytes / packed!.quantisedBytes > 3.5)
    }
  })

  it('say in the words of their readers how layers are quantised', async () => {
    const common = { num_bits: 4, type: 'float', symmetric: true }
    const nvfp4 = {
      ...common,
      strategy: 'tensor_group',
      group_size: 16,
      scale_dtype: 'torch.float8_e4m3fn',
      observer: 'static_minmax',
    }
    const divided = (await exportTo('compressed-tensors', 'nvfp4')).config.quantization_config as object
    const { ignore, ...own } = divided as { ignore: string[] }
    assert.ok(ignore.includes('lm_head'))
    assert.deepEqual(own, {
      quant_method: 'compressed-tensors',
      format: 'nvfp4-pack-quantized',
      quantization_status: 'compressed',
      config_groups: {
        group_0: {
          targets: ['Linear'],
          weights: { ...nvfp4, dynamic: false },
          input_activations: { ...nvfp4, dynamic: 'local' },
          output_activations: null,
          format: 'nvfp4-pack-quantized',
        },
      },
      kv_cache_scheme: null,
      global_compression_ratio: null,
    })
    const mx = (await exportTo('compressed-tensors', 'mxfp4')).config.quantization_config as {
      format: string
      config_groups: { group_0: { weights: object } }
    }
    const mxfp4 = { ...common, strategy: 'group', group_size: 32, scale_dtype: 'torch.uint8', dynamic: false }
    assert.deepEqual([mx.format, mx.config_groups.group_0.weights], ['mxfp4-pack-quantized', mxfp4])
    const { config, read } = await exportTo('modelopt', 'nvfp4')
    const repeated = config.quantization_config as { quant_method: string; quant_algo: string; ignore: string[] }
    assert.deepEqual([repeated.quant_method, repeated.quant_algo], ['modelopt', 'NVFP4'])
    const file = read('hf_quant_config.json') as { producer: { name: string }; quantization: Record<string, unknown> }
    assert.equal(file.producer.name, 'modelopt')
    assert.deepEqual(file.quantization, {
      quant_algo: 'NVFP4',
      group_size: 16,
      kv_cache_quant_algo: null,
      exclude_modules: repeated.ignore,
    })
  })

  it('say that inputs are not quantised where training does not, or has not recorded them', async () => {
    for (const [recipe, given] of [
      ['nvfp4-weights-only-square', inputs],
      ['nvfp4', {}],
    ] as const) {
      const { config, tensors, packed } = await exportTo('compressed-tensors', recipe, { inputs: given })
      const { config_groups } = config.quantization_config as {
        config_groups: { group_0: { input_activations: unknown } }
      }
      assert.deepEqual([config_groups.group_0.input_activations, packed!.inputs], [null, false])
      assert.ok(![...tensors.keys()].some(name => name.includes('input')))
      await assert.rejects(exportTo('modelopt', recipe, { inputs: given }), /wants the largest magnitudes of inputs/)
    }
  })

  it('read no weight before it is written: an export of a large model hears signals from its beginning', () => {
    const opened = openExportedRun(makeRun(join(folder, 'unread'), configOf(hybrid), { inputs }), 10, () => {})
    const weights = { shape: opened.weights.shape, read: () => assert.fail('a weight is read') }
    for (const layout of [compressedTensors, modelopt])
      assert.ok(packedCheckpoint({ ...opened, weights }, tokenizer, 'bf16', layout).summary.quantised > 0)
    const file = ggufFile({ ...opened, weights }, tokenizer, { dtype: 'bf16', quantised: true }, () => {})
    assert.ok(file.packed!.quantised > 0)
    opened.close()
  })

  it('refuse recipes whose forward weights they cannot say', async () => {
    for (const [recipe, sentence] of [
      ['bf16', /recipe bf16 at step 10 reads no weights quantised in its forward pass, and --to modelopt wants nvfp4/],
      ['mxfp4', /reads weights in mxfp4 in its forward pass, and --to modelopt wants nvfp4; --to hf writes floats/],
      ['nvfp4-sr-on-weights', /recipe nvfp4-sr-on-weights rounds its weights at random in layers\.0\.mixer\.in_proj/],
      ['nvfp4-rht-on-fprop', /rotates the operands of its forward pass in layers\.0\.mixer\.in_proj/],
    ] as const)
      await assert.rejects(exportTo('modelopt', recipe), sentence)
  })

  it('follow the phase of the recipe that the checkpoint was made in', async () => {
    const config = configOf(hybrid, 'recipe=nvfp4-late-fprop')
    assert.equal(quantisedLayers(config, 82).size, 8)
    assert.equal(quantisedLayers(config, 83).size, 0)
  })
})

describe('largest magnitudes of inputs', () => {
  it('are those of the second half of the steps up to the checkpoint, of rows of x', async () => {
    const directory = makeRun(join(folder, 'samples'), configOf(hybrid))
    const writer = new RecordWriter(join(directory, 'numerics.jsonl'))
    for (const [step, amax] of [
      [1, 50],
      [40, 3],
      [60, 5],
      [80, 4],
      [120, 9],
    ] as const) {
      writer.write({ step, linear: 'a', operand: 'xRows', amax })
      writer.write({ step, linear: 'a', operand: 'xColumns', amax: 99 })
    }
    writer.write({ step: 1, linear: 'b', operand: 'xRows', amax: 7 })
    writer.close()
    const at = (step: number) => Object.fromEntries(inputAmax({ directory, step }))
    assert.deepEqual(at(100), { a: 5, b: 7 })
    assert.deepEqual(at(120), { a: 9, b: 7 })
    assert.deepEqual(at(1), { a: 50, b: 7 })
  })
})
