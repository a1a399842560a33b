import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { Command, CommanderError } from 'commander'
import { packageRoot } from '../src/backends/open.ts'
import { registerDequantize } from '../src/cli/dequantize.ts'
import { describeFailure } from '../src/cli/errors.ts'
import { registerQuantize } from '../src/cli/quantize.ts'
import { toBf16 } from '../src/formats/bf16.ts'
import {
  dequantize,
  floatsOf,
  type QuantizeTensorOptions,
  quantize,
  readSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from '../src/index.ts'
import { runCli } from './cli.ts'
import { generate } from './formats_vectors.ts'

const folder = mkdtempSync(join(tmpdir(), 'halfbyte-quantize-'))
after(() => rmSync(folder, { recursive: true }))

const input = join(folder, 'in.safetensors')
const mixed = join(folder, 'mixed.safetensors')
const output = join(folder, 'out.safetensors')
const back = join(folder, 'back.safetensors')
const shapes = { even: [64, 128], 'odd.weight': [50, 33] } as const
const values = { even: generate(64, 128, 12345), 'odd.weight': generate(50, 33, 7).map(value => value / 3) }

before(() => {
  const matrices: Record<string, TensorToWrite> = {
    even: { dtype: 'BF16', shape: shapes.even, data: toBf16(values.even) },
    'odd.weight': { dtype: 'F32', shape: shapes['odd.weight'], data: values['odd.weight'] },
  }
  writeSafetensors(input, matrices)
  writeSafetensors(mixed, {
    ...matrices,
    vector: { dtype: 'F32', shape: [4], data: new Float32Array(4) },
    ids: { dtype: 'I32', shape: [2, 2], data: new Int32Array(4) },
    empty: { dtype: 'F32', shape: [0, 16], data: new Float32Array(0) },
  })
})

/** Runs a command in this process; its mistakes are thrown. */
async function command(...args: string[]): Promise<void> {
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} })
  registerQuantize(program)
  registerDequantize(program)
  for (const each of program.commands) each.exitOverride().configureOutput({ writeErr: () => {} })
  await program.parseAsync(args, { from: 'user' })
}

const read = (path: string) => readSafetensors(readFileSync(path))
const bytes = (array: Uint8Array | Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

interface Run {
  readonly flags: string
  readonly options: QuantizeTensorOptions
  readonly dtypes: readonly [string, string]
}

const runs: Run[] = [
  { flags: '', options: { format: 'nvfp4' }, dtypes: ['U8', 'F8_E4M3'] },
  {
    flags: '--format nvfp4 --tile 16x16 --scale-order m6',
    options: { format: 'nvfp4', square: true, scaleOrder: 'm6' },
    dtypes: ['U8', 'F8_E4M3'],
  },
  {
    flags: '--four-over-six mse --transpose',
    options: { format: 'nvfp4', fourOverSix: 'mse', transpose: true },
    dtypes: ['U8', 'F8_E4M3'],
  },
  {
    flags: '--transpose --rotate 16 --round stochastic --seed 4294967298 --stream 5 --step 9',
    options: {
      format: 'nvfp4',
      transpose: true,
      rotate: { size: 16, signs: 'fixed' },
      round: 'stochastic',
      random: [2, 1, 9],
      stream: 5,
    },
    dtypes: ['U8', 'F8_E4M3'],
  },
  {
    flags: '--round eden --rotate 128 --signs fresh --outer row --seed 3',
    options: {
      format: 'nvfp4',
      round: 'eden',
      rotate: { size: 128, signs: 'fresh' },
      outer: 'row',
      random: [3, 0, 0],
    },
    dtypes: ['U8', 'F8_E4M3'],
  },
  {
    flags: '--format mxfp4 --tile 32x32 --mx-scale floor',
    options: { format: 'mxfp4', square: true, mxScale: 'floor' },
    dtypes: ['U8', 'U8'],
  },
  {
    flags: '--format mxfp8 --round stochastic --headroom 0.5',
    options: { format: 'mxfp8', round: 'stochastic', headroom: 0.5, random: [0, 0, 0] },
    dtypes: ['F8_E4M3', 'U8'],
  },
  { flags: '--format fp8 --tile 1x128', options: { format: 'fp8' }, dtypes: ['F8_E4M3', 'F32'] },
  {
    flags: '--format fp8 --tile 128x128 --pow2-scales',
    options: { format: 'fp8', square: true, pow2Scales: true },
    dtypes: ['F8_E4M3', 'F32'],
  },
  { flags: '--format fp8-tensor', options: { format: 'fp8-tensor' }, dtypes: ['F8_E4M3', 'F32'] },
]

describe('halfbyte quantize', () => {
  for (const backend of ['reference', 'cpu'])
    for (const { flags, options, dtypes } of runs)
      it(`${flags || 'nvfp4'} on ${backend} writes what the library computes, and dequantize goes back`, async () => {
        await command('quantize', input, output, ...flags.split(' ').filter(Boolean), '--backend', backend)
        const { tensors } = read(output)
        assert.equal(tensors.size, 6)
        for (const name of ['even', 'odd.weight'] as const) {
          const source = name === 'even' ? 'bf16' : 'f32'
          const want = quantize(values[name], shapes[name], { ...options, source })
          const [codes, scales, amax] = ['codes', 'scales', 'amax'].map(part => tensors.get(`${name}.${part}`)!)
          assert.deepEqual([codes!.dtype, scales!.dtype, amax!.dtype], [...dtypes, 'F32'])
          assert.ok(bytes(want.codes).equals(bytes(codes!.data)), `${name}.codes`)
          assert.ok(bytes(want.scales).equals(bytes(scales!.data)), `${name}.scales`)
          assert.deepEqual(floatsOf(amax!)![0], want.amax[0])
          assert.equal(codes!.shape[0], want.rows)
        }
        await command('dequantize', output, back)
        const restored = read(back).tensors
        for (const name of ['even', 'odd.weight'] as const) {
          const want = dequantize(
            quantize(values[name], shapes[name], { ...options, source: name === 'even' ? 'bf16' : 'f32' }),
          )
          assert.deepEqual(restored.get(name)!.shape, [...shapes[name]])
          assert.deepEqual(floatsOf(restored.get(name)!), want)
          const error = Math.sqrt(want.reduce((sum, value, i) => sum + (value - values[name][i]!) ** 2, 0))
          assert.ok(error < 0.35 * Math.sqrt(values[name].reduce((sum, value) => sum + value * value, 0)), `${error}`)
        }
      })

  it('writes the golden vectors of the reference', async () => {
    const golden = join(packageRoot(), 'test', 'golden', 'nvfp4.safetensors')
    const { tensors } = read(golden)
    const name = 'nvfp4_m6_f32_48x96_outliers_16x16'
    const x = tensors.get(`${name}/x`)!
    writeSafetensors(join(folder, 'golden.safetensors'), { x })
    const flags = ['--tile', '16x16', '--scale-order', 'm6']
    await command('quantize', join(folder, 'golden.safetensors'), output, ...flags)
    const written = read(output).tensors
    for (const part of ['codes', 'scales', 'amax'])
      assert.ok(bytes(written.get(`x.${part}`)!.data).equals(bytes(tensors.get(`${name}/${part}`)!.data)), part)
  })

  it('makes the folder of its output, as dequantize does', async () => {
    const [codes, floats] = ['codes', 'floats'].map(name => join(folder, 'new', name, 'x.safetensors')) as [
      string,
      string,
    ]
    await command('quantize', input, codes)
    await command('dequantize', codes, floats)
    assert.deepEqual([existsSync(codes), existsSync(floats)], [true, true])
  })

  it('passes over what is no matrix of floats, with a note, or refuses it', () => {
    const { status, stderr } = runCli(['quantize', mixed, output])
    assert.equal(status, 0)
    assert.match(stderr, /tensor "vector": its shape \[4\] is not that of a matrix; passed over\n/)
    assert.match(stderr, /tensor "ids": I32 is no floating-point dtype; passed over\n/)
    assert.match(stderr, /tensor "empty": its shape \[0, 16\] is empty; passed over\n/)
    rmSync(output)
    const strict = runCli(['quantize', mixed, output, '--strict'])
    assert.equal(strict.status, 1)
    assert.match(strict.stderr, /^halfbyte: .*mixed\.safetensors: tensor "[a-z]+": [^\n]*\n$/)
    assert.ok(!existsSync(output))
  })

  it('notes values that are not finite, or refuses them', () => {
    const path = join(folder, 'bad.safetensors')
    const x = Float32Array.from({ length: 32 }, (_, i) =>
      i === 3 ? Number.NaN : i === 20 ? Number.POSITIVE_INFINITY : 1,
    )
    writeSafetensors(path, { x: { dtype: 'F32', shape: [2, 16], data: x } })
    const { status, stderr, stdout } = runCli(['quantize', path, '--json'])
    assert.equal(status, 0)
    assert.match(stderr, /"x": holds values that are not finite/)
    assert.equal(JSON.parse(stdout)[0].notFinite, 2)
    const strict = runCli(['quantize', path, output, '--strict'])
    assert.deepEqual([strict.status, strict.stderr.split('\n').length], [1, 2])
    assert.match(strict.stderr, /not finite/)
  })

  it('reports, as tables and as JSON', () => {
    const reports = JSON.parse(runCli(['quantize', input, '--json', '--rotate', '16']).stdout)
    const report = reports.find(({ name }: { name: string }) => name === 'even')
    assert.deepEqual([report.rows, report.cols, report.codes.length], [64, 128, 16])
    assert.equal(
      report.codes.reduce((a: number, b: number) => a + b),
      64 * 128,
    )
    assert.ok(report.snr > 15 && report.snr < 25, `${report.snr}`)
    const rows = JSON.parse(runCli(['quantize', input, '--json']).stdout)
    const odd = rows.find(({ name }: { name: string }) => name === 'odd.weight')
    const image = quantize(values['odd.weight'], shapes['odd.weight'], { format: 'nvfp4' })
    const x = values['odd.weight']
    const v = dequantize(image)
    const sum = (of: (i: number) => number) => x.reduce((total, _, i) => total + of(i), 0)
    const snr = 10 * Math.log10(sum(i => x[i]! ** 2) / sum(i => (v[i]! - x[i]!) ** 2))
    assert.ok(Math.abs(odd.snr - snr) < 1e-9)
    assert.ok(Math.abs(odd.relativeError - sum(i => Math.abs(v[i]! / x[i]! - 1)) / x.length) < 1e-6)
    assert.equal(odd.flushed, sum(i => (v[i] === 0 ? 1 : 0)) / x.length)
    assert.equal(
      odd.codes.reduce((a: number, b: number) => a + b),
      50 * 33,
    )
    for (const format of ['nvfp4', 'fp8']) {
      const { status, stdout } = runCli(['quantize', input, '--report', '--format', format])
      assert.equal(status, 0)
      assert.match(stdout, /^tensor +rows +cols +amax +SNR/)
      assert.match(stdout, /^even +64 +128 +1\.992 +\d+\.\d\d dB/m)
      assert.match(stdout, /^codes, %/m)
    }
  })

  it('counts scales of zero and exact tensors', () => {
    const path = join(folder, 'zeros.safetensors')
    const x = new Float32Array(64)
    x[0] = 6
    writeSafetensors(path, { x: { dtype: 'F32', shape: [1, 64], data: x } })
    const [report] = JSON.parse(runCli(['quantize', path, '--json']).stdout)
    assert.deepEqual([report.snr, report.zeroScales, report.flushed, report.saturated], [null, 0.75, 0, 0])
    assert.match(runCli(['quantize', path, '--report']).stdout, /exact/)
  })

  it('answers mistakes with one sentence', async () => {
    const broken = join(folder, 'broken.safetensors')
    writeFileSync(broken, readFileSync(input).subarray(0, 700))
    const vectors = join(folder, 'vectors.safetensors')
    writeSafetensors(vectors, { a: { dtype: 'F32', shape: [2], data: new Float32Array(2) } })
    const mistakes: [string[], number, RegExp][] = [
      [['quantize', input], 2, /name an output file/],
      [['quantize', input, output, '--format', 'int4'], 2, /Allowed choices are nvfp4/],
      [['quantize', input, output, '--format', 'fp8', '--tile', '16x16'], 2, /fp8 has tiles of 1x128 and 128x128/],
      [['quantize', input, output, '--rotate', '8'], 2, /Hadamard size 8 is not one of/],
      [['quantize', input, output, '--four-over-six', 'mae', '--round', 'stochastic'], 2, /rounds to nearest/],
      [['quantize', input, output, '--pow2-scales'], 2, /powers of two are a choice for FP32/],
      [['quantize', input, output, '--headroom', '2'], 2, /at most 1/],
      [['quantize', input, output, '--seed', '-1'], 2, /whole number/],
      [['quantize', input, output, '--backend', 'abacus'], 1, /backend "abacus" is unknown/],
      [['quantize', join(folder, 'none.safetensors'), output], 1, /no such file/],
      [['quantize', broken, output], 1, /broken\.safetensors: /],
      [['quantize', vectors, output], 1, /has no matrix to quantise/],
      [
        ['quantize', input, join(input, 'where')],
        1,
        /in\.safetensors\S* cannot be written: .*in\.safetensors is no folder/,
      ],
      [['dequantize', input, back], 1, /has no metadata "halfbyte\.quantized"/],
    ]
    for (const [args, code, message] of mistakes)
      await assert.rejects(command(...args), (error: Error) => {
        const { exitCode, unexpected } = describeFailure(error)
        assert.ok(
          error instanceof CommanderError || (exitCode === code && !unexpected),
          `${args.slice(2)}: ${error.stack}`,
        )
        assert.equal(error instanceof CommanderError ? 2 : exitCode, code)
        assert.match(describeFailure(error).message, message)
        return true
      })
    const { status, stderr } = runCli(['quantize', input, output, '--rotate', '8'])
    assert.deepEqual([status, stderr], [2, 'halfbyte: Hadamard size 8 is not one of 4, 16, 32, 64, 128\n'])
  })

  it('dequantize refuses a file whose tensors are not what it says', async () => {
    await command('quantize', input, output)
    const { tensors, metadata } = read(output)
    const forged = join(folder, 'forged.safetensors')
    const refuse = async (changed: typeof tensors, what: Record<string, string>, message: RegExp) => {
      writeSafetensors(forged, changed, what)
      await assert.rejects(command('dequantize', forged, back), message)
    }
    const without = new Map(tensors)
    without.delete('even.scales')
    await refuse(without, metadata, /has no tensor "even\.scales"/)
    const wrong = new Map(tensors).set('even.codes', { dtype: 'U8', shape: [1], data: Uint8Array.of(1) })
    await refuse(wrong, metadata, /"even\.codes" is U8\[1\], U8\[64, 64\] wanted/)
    await refuse(tensors, { 'halfbyte.quantized': '{' }, /is not JSON/)
    await refuse(tensors, { 'halfbyte.quantized': '{"options":{}}' }, /has a wrong options\.format/)
    const huge = metadata['halfbyte.quantized']!.replace('"shape":[64,128]', '"shape":[1e15,1e15]')
    await refuse(tensors, { 'halfbyte.quantized': huge }, /"even\.codes" is|wrong|matrix/)
  })
})
