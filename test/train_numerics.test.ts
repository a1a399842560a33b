import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { referenceBackend } from '../src/backends/reference.ts'
import { rotate, transpose } from '../src/formats/hadamard.ts'
import { Stream } from '../src/formats/philox.ts'
import { dequantizeImage, rowImage } from '../src/ops/image.ts'
import type { Watched } from '../src/ops/linear.ts'
import type { DType } from '../src/tensor/dtype.ts'
import { persistentTensor, type Tensor } from '../src/tensor/tensor.ts'
import { isSampled, measure, type OperandNumerics, sampledEvery } from '../src/train/numerics.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

const bf16Value = new Float32Array(1)
const bf16Bits = new Uint32Array(bf16Value.buffer)
function floats(tensor: Tensor): Float32Array {
  if (tensor.dtype === 'f32') return tensor.floats()
  return Float32Array.from(tensor.read() as Uint16Array, bits => {
    bf16Bits[0] = bits << 16
    return bf16Value[0]!
  })
}

/** The signal-to-noise ratio in dB and the share of flushed values of a whole operand, by the backend's own dequantisation. */
function whole({ values, transposed, image, request }: Watched): { snr: number; flushed: number } {
  const { backend } = values
  const [rows, cols] = values.shape as [number, number]
  let x = floats(values)
  if (transposed) x = transpose(x, rows, cols)
  const { hadamard } = request
  if (hadamard)
    x = rotate(x, image.rows, image.cols, {
      size: hadamard.size,
      signs: hadamard.signs.read() as Uint32Array,
      bf16: values.dtype === 'bf16',
    })
  const memory = backend.alloc(4 * image.rows * image.cols)
  const Made = values.constructor as new (...args: unknown[]) => Tensor
  const v = dequantizeImage(
    backend,
    (dtype, shape) => new Made(backend, memory, 0, dtype, shape),
    image,
    'f32',
  ).floats()
  backend.free(memory)
  let [power, noise, flushed] = [0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    power += x[i]! ** 2
    noise += (v[i]! - x[i]!) ** 2
    if (x[i] !== 0 && v[i] === 0) flushed++
  }
  return { snr: 10 * Math.log10(power / noise), flushed: flushed / x.length }
}

describe('numerics of a sampled step', () => {
  for (const [recipe, ...overrides] of [
    ['nvfp4'],
    ['nvfp4', 'model.activations=bf16'],
    ['nvfp4', 'data.sequence=1024', 'data.batch=4', 'data.micro_batch=4', 'model.pattern=*-*-'],
    ['fp8', 'data.sequence=1024', 'data.batch=4', 'data.micro_batch=4', 'model.pattern=*-*-'],
    ['nvfp4-plain'],
    ['mxfp4'],
    ['fp8', 'model.pattern=M-*-M-'],
    [
      'quartet2',
      'data.batch=8',
      'data.micro_batch=4',
      'model.hidden=128',
      'model.ffn=128',
      'model.mamba_head_dim=8',
      'model.heads=8',
      'model.kv_heads=4',
    ],
  ] as const)
    it(`of ${[recipe, ...overrides].join(' ')} are those of the whole operands, as far as some lines show`, async () => {
      const trainer = await openTrainer(smallConfig(folder, `recipe=${recipe}`, ...overrides))
      const compared: { found: OperandNumerics; want: ReturnType<typeof whole> }[] = []
      const { model } = trainer
      const watch = model.watch.bind(model)
      model.watch = callback =>
        watch(
          callback &&
            (made => {
              compared.push({ found: measure(made, 3), want: whole(made) })
              const { weight } = model.linears.find(({ name }) => name === made.linear)!
              const ofOutputs = made.role === 'wRows' || made.role === 'dyColumns'
              assert.equal(made.lines, ofOutputs ? weight.shape[0] : made.image.rows, `${made.linear} ${made.role}`)
            }),
        )
      trainer.step(0)
      trainer.step(1, true)
      model.backend.close()
      assert.ok(compared.length >= 8, `${compared.length} operands`)
      for (const { found, want } of compared) {
        const name = `${found.linear} ${found.operand}: ${JSON.stringify({ found, want })}`
        assert.ok(Math.abs(found.snr_db! - want.snr) < 3.5, name)
        assert.ok(Math.abs(found.flushed - want.flushed) < 0.16, name)
        assert.ok(found.amax > 0 && found.saturated < 0.5 && found.zero_scales < 0.5, name)
      }
    })

  it('are those of the lines looked at, where each line has an outer scale', () => {
    const backend = referenceBackend()
    const allocate = (dtype: DType, shape: readonly number[]) => persistentTensor(backend, dtype, shape)
    const random = new Stream(3, 0)
    const x = Float32Array.from({ length: 64 * 64 }, (_, i) => random.normal() * 100 ** Math.floor(i / 640))
    const values = allocate('f32', [64, 64]).write(x)
    const spec = { format: 'nvfp4', round: 'nearest', outer: 'row' } as const
    const request = { spec, amax: allocate('f32', [2]), random: allocate('u32', [3]), stream: 0 }
    const image = rowImage(backend, allocate, values, request)
    const made = { linear: 'l', role: 'xRows', values, transposed: false, image, request, lines: 64 } as const
    for (const step of [0, 1, 3]) {
      const { snr_db, saturated } = measure(made, step)
      assert.ok(snr_db! > 15 && saturated < 0.1, `at step ${step}: ${snr_db} dB, ${saturated} saturated`)
    }
  })

  it('are of whole blocks of lines, the next ones in the next sample', () => {
    const backend = referenceBackend()
    const allocate = (dtype: DType, shape: readonly number[]) => persistentTensor(backend, dtype, shape)
    const x = Float32Array.from({ length: 64 * 64 }, (_, i) => (Math.floor(i / 64 / 16) === 2 ? 1 + (i % 7) : 0))
    const values = allocate('f32', [64, 64]).write(x)
    const spec = { format: 'nvfp4', round: 'nearest' } as const
    const request = { spec, amax: allocate('f32', [2]), random: allocate('u32', [3]), stream: 0 }
    const image = rowImage(backend, allocate, values, request)
    const made = { linear: 'l', role: 'xRows', values, transposed: false, image, request, lines: 64 } as const
    const hasSignal = [0, 1, 2, 3, 4, 5, 6].map(sample => measure(made, sample).snr_db !== null)
    assert.deepEqual(hasSignal, [false, false, true, false, false, false, true])
  })

  it('have a record for each linear layer and quantised operand, with the gradient of the weight', async () => {
    const trainer = await openTrainer(smallConfig(folder))
    const { numerics } = trainer.step(0, true)
    const of = (linear: string) => numerics.filter(record => record.linear === linear).map(({ operand }) => operand)
    assert.deepEqual(of('layers.0.mixer.in_proj'), ['xRows', 'wRows', 'xColumns', 'dyRows', 'dyColumns'])
    assert.deepEqual(of('layers.3.mixer.up_proj'), [undefined])
    const squares = new Map(numerics.map(({ linear, grad_norm }) => [linear, grad_norm ** 2]))
    assert.equal(squares.size, trainer.model.linears.length)
    for (const { grad_norm, zero_wgrad } of numerics) assert.ok(grad_norm > 0 && zero_wgrad >= 0 && zero_wgrad < 1)
    trainer.model.backend.close()
  })

  it('change no bit of the training', async () => {
    const losses: number[][] = []
    for (const sampled of [false, true]) {
      const trainer = await openTrainer(smallConfig(folder))
      losses.push([0, 1, 2, 3].map(step => trainer.step(step, sampled).loss))
      trainer.model.backend.close()
    }
    assert.deepEqual(losses[0], losses[1])
  })

  it('are taken at the first step and then seldom', () => {
    const steps = (total: number) =>
      Array.from({ length: total }, (_, i) => i + 1).filter(step => isSampled(step, total))
    assert.deepEqual(steps(100), [1, 40, 80])
    assert.equal(steps(10_000).length, 51)
    assert.equal(sampledEvery(1_600_000), 32_000)
  })
})
