import { describe, it } from 'node:test'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { toBf16 } from '../src/formats/bf16.ts'
import { signWords } from '../src/formats/hadamard.ts'
import { kernels } from '../src/kernels/index.ts'
import { columnImage, type Image, type ImageRequest, rowImage, squareImages } from '../src/ops/image.ts'
import { multiply } from '../src/ops/multiply.ts'
import type { Quantized } from '../src/recipes/recipe.ts'
import type { Backend, Memory } from '../src/tensor/backend.ts'
import { type DType, dtypes } from '../src/tensor/dtype.ts'
import { sizeOf, Tensor } from '../src/tensor/tensor.ts'
import { cases, floats, type GoldenCase, same, tensorOf } from './golden_vectors.ts'

/** A backend and the memory that one case takes from it. */
class Bench {
  readonly backend: Backend
  readonly #held: Memory[] = []

  constructor(backend: Backend) {
    this.backend = backend
  }

  readonly allocate = (dtype: DType, shape: readonly number[]): Tensor => {
    const memory = this.backend.alloc(Math.max(64, sizeOf(shape) * dtypes[dtype].bytes))
    this.#held.push(memory)
    return new Tensor(this.backend, memory, 0, dtype, shape)
  }

  matrix(values: Float32Array, shape: readonly number[], dtype: 'f32' | 'bf16'): Tensor {
    return this.allocate(dtype, shape).write(dtype === 'bf16' ? toBf16(values) : values)
  }

  request(spec: Quantized, rotated = false): ImageRequest {
    const signs = rotated ? this.allocate('u32', [4]).write(signWords('fixed')) : undefined
    return {
      spec,
      hadamard: signs && { size: 16, signs },
      amax: this.allocate('f32', [2]),
      random: this.allocate('u32', [3]).write(new Uint32Array(3)),
      stream: 0,
    }
  }

  free(): void {
    for (const memory of this.#held.splice(0)) this.backend.free(memory)
  }
}

function sameImage(golden: GoldenCase, image: Image, suffix: '' | '_t'): void {
  same(golden, `codes${suffix}`, image.codes.read() as Uint8Array)
  same(golden, `scales${suffix}`, image.scales.read() as Uint8Array | Float32Array)
  if (tensorOf(golden, `amax${suffix}`)) same(golden, `amax${suffix}`, image.amax.floats().subarray(0, 1))
}

function checkImages(bench: Bench, golden: GoldenCase, spec: Quantized, square: boolean, turned: boolean): void {
  const { backend, allocate } = bench
  const x = bench.matrix(floats(golden, 'x'), [golden.rows, golden.cols], golden.dtype)
  if (square) {
    const { row, column } = squareImages(backend, allocate, x, bench.request(spec))
    sameImage(golden, row, '')
    if (turned) sameImage(golden, column, '_t')
  } else {
    sameImage(golden, rowImage(backend, allocate, x, bench.request(spec)), '')
    if (turned) sameImage(golden, columnImage(backend, allocate, x, bench.request(spec, golden.rht_on_transpose)), '_t')
  }
  bench.free()
}

function checkLinear(bench: Bench, golden: GoldenCase): void {
  const { backend, allocate } = bench
  const { tokens, in_features: inner, out_features: outer, scale_order: scaleOrder } = golden
  const spec: Quantized = { format: 'nvfp4', round: 'nearest', scaleOrder }
  const matrix = (part: string, rows: number, cols: number) => bench.matrix(floats(golden, part), [rows, cols], 'bf16')
  const x = matrix('x', tokens, inner)
  const dy = matrix('dy', tokens, outer)
  const w = squareImages(backend, allocate, matrix('w', outer, inner), bench.request(spec))
  const row = (values: Tensor) => rowImage(backend, allocate, values, bench.request(spec))
  const column = (values: Tensor) => columnImage(backend, allocate, values, bench.request(spec, true))
  const product = (part: string, a: Image, b: Image): void => {
    const c = allocate('f32', [a.rows, b.rows])
    multiply(backend, allocate, c, { image: a }, { image: b }, 0)
    same(golden, part, c.floats())
  }
  product('y', row(x), w.row)
  if (tensorOf(golden, 'dx')) product('dx', row(dy), w.column)
  product('dw', column(dy), column(x))
  bench.free()
}

/** The vectors of golden.test.ts through the kernels, at every instruction level of this machine. */
describe('golden vectors on the cpu backend', () => {
  const features = cpuFeatures()
  for (const level of levels.filter(({ needs }) => needs.every(feature => features.has(feature))))
    it(level.name, async () => {
      const backend = await openBackend('cpu', kernels, { level: level.name, threads: 2 })
      const bench = new Bench(backend)
      try {
        for (const golden of cases('nvfp4', 168)) {
          const spec: Quantized = { format: 'nvfp4', round: 'nearest', scaleOrder: golden.scale_order }
          checkImages(bench, golden, spec, golden.tile === '16x16', true)
        }
        for (const golden of cases('nvfp4_4over6', 96)) {
          const fourOverSix = golden.error === 'MAE' ? 'mae' : 'mse'
          checkImages(bench, golden, { format: 'nvfp4', round: 'nearest', fourOverSix }, golden.tile === '16x16', false)
        }
        for (const golden of cases('fp8_block', 28)) {
          const spec: Quantized = {
            format: 'fp8',
            round: 'nearest',
            ...(golden.pow2_scales ? { pow2Scales: true } : {}),
          }
          checkImages(bench, golden, spec, golden.tile === '128x128', false)
        }
        for (const golden of cases('linear', 4)) checkLinear(bench, golden)
      } finally {
        backend.close()
      }
    })
})
