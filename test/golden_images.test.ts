import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { toBf16 } from '../src/formats/bf16.ts'
import { signWords } from '../src/formats/hadamard.ts'
import { kernels } from '../src/kernels/index.ts'
import { columnImage, type Image, rowImage, scalesOfLines, squareImages } from '../src/ops/image.ts'
import { multiply } from '../src/ops/multiply.ts'
import type { Quantized } from '../src/recipes/recipe.ts'
import { Arena } from '../src/tensor/arena.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { DType } from '../src/tensor/dtype.ts'
import { floatsOf } from '../src/tensor/safetensors.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import { type GoldenCase, index, storedOf } from './golden_vectors.ts'

/** One backend and the memory of one case. */
class Bench {
  readonly backend: Backend
  readonly arena: Arena
  constructor(backend: Backend) {
    this.backend = backend
    this.arena = new Arena(backend)
  }

  readonly allocate = (dtype: DType, shape: readonly number[]): Tensor => this.arena.alloc(dtype, shape)

  input(golden: GoldenCase, part: string, dtype: 'f32' | 'bf16'): Tensor {
    const tensor = storedOf(golden, part)!
    const values = floatsOf(tensor)!
    return this.allocate(dtype, tensor.shape).write(dtype === 'bf16' ? toBf16(values) : values)
  }

  request(spec: Quantized, rotated = false) {
    const hadamard = rotated ? { size: 16, signs: this.allocate('u32', [4]).write(signWords('fixed')) } : undefined
    return { spec, hadamard, amax: this.allocate('f32', [2]), random: this.allocate('u32', [3]), stream: 0 }
  }

  same(golden: GoldenCase, part: string, got: Pick<Tensor, 'read'>): void {
    const want = storedOf(golden, part)
    assert.ok(want, `${golden.case} has no ${part}`)
    const array = got.read()
    const bytes = Buffer.from(array.buffer, array.byteOffset, array.byteLength)
    const label = `${golden.case} on ${this.backend.description.level}: ${part} differs`
    assert.ok(bytes.equals(Buffer.from(want.data.buffer, want.data.byteOffset, want.data.byteLength)), label)
  }

  image(golden: GoldenCase, image: Image, suffix = ''): void {
    this.same(golden, `codes${suffix}`, image.codes)
    this.same(golden, `scales${suffix}`, { read: () => scalesOfLines(image) })
    if (storedOf(golden, `amax${suffix}`)) this.same(golden, `amax${suffix}`, image.amax.part(0, [1]))
  }
}

const kinds: Readonly<Record<string, (bench: Bench, golden: GoldenCase) => void>> = {
  nvfp4(bench, golden) {
    const spec: Quantized = { format: 'nvfp4', round: 'nearest', scaleOrder: golden.scale_order }
    const { backend, allocate } = bench
    const x = bench.input(golden, 'x', golden.dtype)
    if (golden.tile === '16x16') {
      const { row, column } = squareImages(backend, allocate, x, bench.request(spec))
      bench.image(golden, row)
      bench.image(golden, column, '_t')
      return
    }
    bench.image(golden, rowImage(backend, allocate, x, bench.request(spec)))
    bench.image(golden, columnImage(backend, allocate, x, bench.request(spec, golden.rht_on_transpose)), '_t')
  },

  nvfp4_4over6(bench, golden) {
    const fourOverSix = golden.error === 'MAE' ? 'mae' : 'mse'
    const spec: Quantized = { format: 'nvfp4', round: 'nearest', fourOverSix }
    const x = bench.input(golden, 'x', golden.dtype)
    const image =
      golden.tile === '16x16' ? squareImages(bench.backend, bench.allocate, x, bench.request(spec)).row : undefined
    bench.image(golden, image ?? rowImage(bench.backend, bench.allocate, x, bench.request(spec)))
  },

  fp8_block(bench, golden) {
    const spec: Quantized = {
      format: 'fp8',
      round: 'nearest',
      ...(golden.pow2_scales ? { pow2Scales: true } : {}),
      ...(golden.tile === '128x128' ? { square: true } : {}),
    }
    const x = bench.input(golden, 'x', golden.dtype)
    bench.image(golden, rowImage(bench.backend, bench.allocate, x, bench.request(spec)))
  },

  linear(bench, golden) {
    const { backend, allocate } = bench
    const spec: Quantized = { format: 'nvfp4', round: 'nearest', scaleOrder: golden.scale_order }
    const [x, w, dy] = ['x', 'w', 'dy'].map(part => bench.input(golden, part, 'bf16')) as [Tensor, Tensor, Tensor]
    const product = (part: string, a: Image, b: Image) => {
      const c = allocate('f32', [a.rows, b.rows])
      multiply(backend, allocate, c, { image: a }, { image: b }, 0)
      bench.same(golden, part, c)
    }
    const weights = squareImages(backend, allocate, w, bench.request(spec))
    const columns = (values: Tensor) => columnImage(backend, allocate, values, bench.request(spec, true))
    product('y', rowImage(backend, allocate, x, bench.request(spec)), weights.row)
    product('dw', columns(dy), columns(x))
    if (storedOf(golden, 'dx')) product('dx', rowImage(backend, allocate, dy, bench.request(spec)), weights.column)
  },
}

/** The golden vectors through the kernels of the cpu backend at every instruction level this machine has. */
describe('golden images on the cpu backend', () => {
  const features = cpuFeatures()
  const usable = levels.filter(level => level.needs.every(feature => features.has(feature)))
  const benches: Bench[] = []

  before(async () => {
    for (const level of usable)
      benches.push(new Bench(await openBackend('cpu', kernels, { level: level.name, threads: 2 })))
  })
  after(() => {
    for (const { arena, backend } of benches) {
      arena.release()
      backend.close()
    }
  })

  const counts = { nvfp4: 168, nvfp4_4over6: 96, fp8_block: 28, linear: 4 }
  for (const [kind, count] of Object.entries(counts))
    it(kind, () => {
      const cases = index.filter(golden => golden.kind === kind)
      assert.equal(cases.length, count)
      for (const bench of benches) for (const golden of cases) kinds[kind]!(bench, golden)
    })
})
