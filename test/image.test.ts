import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { roundBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { kernels } from '../src/kernels/index.ts'
import {
  areMadeTogether,
  bothImages,
  castTo,
  columnImage,
  dequantizeImage,
  type ImageRequest,
  rowImage,
  squareImages,
} from '../src/ops/image.ts'
import type { FormatName, Quantized } from '../src/recipes/recipe.ts'
import { Arena } from '../src/tensor/arena.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { DType } from '../src/tensor/dtype.ts'
import type { Tensor } from '../src/tensor/tensor.ts'

const random = new Stream(11, 0)
const normal = (size: number): Float32Array => Float32Array.from({ length: size }, () => random.normal())

describe('images', () => {
  let backend: Backend
  let arena: Arena
  const allocate = (dtype: DType, shape: readonly number[]): Tensor => arena.alloc(dtype, shape)
  const floats = (values: Float32Array, rows: number, cols: number): Tensor =>
    allocate('f32', [rows, cols]).write(values)
  const request = (spec: Quantized, stream = 1): ImageRequest => ({
    spec,
    amax: allocate('f32', [2]),
    random: allocate('u32', [3]).write(Uint32Array.of(1, 2, 3)),
    stream,
  })

  before(async () => {
    backend = await openBackend('cpu', kernels, { threads: 2 })
    arena = new Arena(backend)
  })
  after(() => {
    arena.release()
    backend.close()
  })

  /** sqrt(sum (a - b)^2 / sum b^2) */
  const error = (a: Float32Array, b: Float32Array): number =>
    Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / b.reduce((sum, x) => sum + x * x, 0))

  const expected: Readonly<Record<FormatName, number>> = {
    nvfp4: 0.12,
    mxfp4: 0.15,
    mxfp8: 0.04,
    fp8: 0.04,
    'fp8-tensor': 0.04,
  }

  for (const [name, limit] of Object.entries(expected))
    it(`${name}: both orientations come back near the values`, () => {
      const format = name as FormatName
      const values = normal(64 * 96)
      const x = floats(values, 64, 96)
      const row = dequantizeImage(
        backend,
        allocate,
        rowImage(backend, allocate, x, request({ format, round: 'nearest' })),
        'f32',
      )
      assert.ok(error(row.floats(), values) < limit)
      const column = columnImage(backend, allocate, x, request({ format, round: 'nearest' }))
      assert.deepEqual([column.rows, column.cols], [96, 64])
      const back = dequantizeImage(backend, allocate, column, 'f32').floats()
      const turned = Float32Array.from({ length: 96 * 64 }, (_, i) => values[(i % 64) * 96 + Math.floor(i / 64)]!)
      assert.ok(error(back, turned) < limit)
      const square = squareImages(backend, allocate, x, request({ format, round: 'nearest' }))
      const a = dequantizeImage(backend, allocate, square.row, 'f32').floats()
      const b = dequantizeImage(backend, allocate, square.column, 'f32').floats()
      assert.ok(error(a, values) < 1.2 * limit)
      for (let i = 0; i < a.length; i++) assert.equal(b[(i % 96) * 64 + Math.floor(i / 96)], a[i])
    })

  it('an outer scale per row brings back rows of very different sizes', () => {
    const values = normal(32 * 64).map((x, i) => x * 10 ** (Math.floor(i / 64) - 16))
    const image = rowImage(
      backend,
      allocate,
      floats(values, 32, 64),
      request({ format: 'nvfp4', round: 'nearest', outer: 'row' }),
    )
    assert.deepEqual(image.amax.shape, [32])
    const back = dequantizeImage(backend, allocate, image, 'f32').floats()
    for (let r = 0; r < 32; r++)
      assert.ok(error(back.subarray(r * 64, r * 64 + 64), values.subarray(r * 64, r * 64 + 64)) < 0.15, `row ${r}`)
  })

  it('stochastic images of different streams differ, of the same stream do not', () => {
    const x = floats(normal(32 * 64), 32, 64)
    const codes = (stream: number) =>
      rowImage(backend, allocate, x, request({ format: 'nvfp4', round: 'stochastic' }, stream)).codes.read()
    assert.deepEqual(codes(5), codes(5))
    assert.notDeepEqual(codes(5), codes(6))
  })

  it('a square image in one orientation may be rotated', () => {
    const values = normal(32 * 64)
    const signs = allocate('u32', [4]).write(new Uint32Array(4))
    const spec: Quantized = { format: 'nvfp4', round: 'nearest', square: true }
    const x = floats(values, 32, 64)
    const image = rowImage(backend, allocate, x, { ...request(spec), hadamard: { size: 16, signs } })
    const back = dequantizeImage(backend, allocate, image, 'f32').floats()
    const sum = values.subarray(0, 16).reduce((total, value) => total + value, 0) / 4
    assert.ok(Math.abs(back[0]! - sum) < 0.4)
    assert.throws(
      () => squareImages(backend, allocate, x, { ...request(spec), hadamard: { size: 16, signs } }),
      /rotated/,
    )
  })

  it('are the same made together as made apart, with random decisions of their own', () => {
    for (const format of ['nvfp4', 'mxfp4', 'fp8'] as const) {
      const x = floats(normal(128 * 128), 128, 128)
      const row = request({ format, round: 'stochastic' }, 1)
      const column = { ...request(row.spec, 2), random: row.random }
      assert.ok(areMadeTogether(row, column))
      const both = bothImages(backend, allocate, { value: x, mapped: { x, squared: 0 } }, row, column)
      const apart = { row: rowImage(backend, allocate, x, row), column: columnImage(backend, allocate, x, column) }
      for (const side of ['row', 'column'] as const)
        for (const part of ['codes', 'scales'] as const)
          assert.deepEqual(both[side][part].read(), apart[side][part].read(), `${format} ${side} ${part}`)
    }
  })

  it('says what is not finite', () => {
    const values = normal(32 * 64)
    values[77] = Number.NaN
    const asked = request({ format: 'nvfp4', round: 'nearest' })
    rowImage(backend, allocate, floats(values, 32, 64), asked)
    const [amax, flag] = asked.amax.floats()
    assert.equal(flag, 1)
    assert.ok(Number.isFinite(amax))
  })

  it('casts round to nearest', () => {
    const values = normal(1001)
    const half = castTo(backend, allocate, floats(values, 7, 143), 'bf16')
    assert.deepEqual(half.shape, [7, 143])
    assert.deepEqual(castTo(backend, allocate, half, 'f32').floats(), values.map(roundBf16))
    assert.equal(castTo(backend, allocate, half, 'bf16'), half)
  })

  it('names the dimension that does not fit', () => {
    const x = floats(normal(24 * 40), 24, 40)
    assert.throws(
      () => rowImage(backend, allocate, x, request({ format: 'nvfp4', round: 'nearest' })),
      /40 is not a multiple of the block of 16/,
    )
    assert.throws(
      () => columnImage(backend, allocate, x, request({ format: 'mxfp4', round: 'nearest' })),
      /24 is not a multiple of the block of 32/,
    )
    const even = floats(normal(32 * 64), 32, 64)
    assert.throws(
      () => rowImage(backend, allocate, even, request({ format: 'fp8', round: 'eden' })),
      /fp8 has no MS-EDEN rounding/,
    )
  })
})
