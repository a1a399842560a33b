import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { fromBf16, roundBf16, toBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { gemmNt } from '../src/kernels/gemm/gemm.ts'
import { gemmMxfp4 } from '../src/kernels/gemm_mx/gemm_mx.ts'
import { gemmNvfp4 } from '../src/kernels/gemm_nvfp4/gemm_nvfp4.ts'
import { kernels } from '../src/kernels/index.ts'
import { dequantizeImage, rowImage } from '../src/ops/image.ts'
import { multiply, type Source } from '../src/ops/multiply.ts'
import type { FormatName, Quantized } from '../src/recipes/recipe.ts'
import { Arena } from '../src/tensor/arena.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { DType } from '../src/tensor/dtype.ts'
import type { Tensor } from '../src/tensor/tensor.ts'
import { difference } from './cases.ts'

type Float = 'f32' | 'bf16'

const normals = (size: number, stream: number): Float32Array => {
  const random = new Stream(7, stream)
  return Float32Array.from({ length: size }, () => random.normal())
}

const valuesOf = (tensor: Tensor): Float32Array => {
  const raw = tensor.read()
  return raw instanceof Uint16Array ? fromBf16(raw) : (raw as Float32Array)
}

/** a[m,k] · b[n,k]ᵀ in double precision. */
function product(a: Float32Array, b: Float32Array, m: number, n: number, k: number): Float32Array {
  const c = new Float32Array(m * n)
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let l = 0; l < k; l++) sum += a[i * k + l]! * b[j * k + l]!
      c[i * n + j] = sum
    }
  return c
}

function transpose(x: Float32Array, rows: number, cols: number): Float32Array {
  const y = new Float32Array(x.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) y[c * rows + r] = x[r * cols + c]!
  return y
}

describe('products', () => {
  const features = cpuFeatures()
  const usable = levels.filter(level => level.needs.every(feature => features.has(feature)))
  const machines: {
    backend: Backend
    arena: Arena
    tensor: (x: Float32Array, shape: number[], dtype?: Float) => Tensor
  }[] = []

  before(async () => {
    const opened = [await openBackend('reference', kernels)]
    for (const level of usable) opened.push(await openBackend('cpu', kernels, { level: level.name, threads: 2 }))
    for (const backend of opened) {
      const arena = new Arena(backend)
      const tensor = (x: Float32Array, shape: number[], dtype: Float = 'f32') =>
        arena.alloc(dtype, shape).write(dtype === 'bf16' ? toBf16(x) : x)
      machines.push({ backend, arena, tensor })
    }
  })
  after(() => {
    for (const { backend, arena } of machines) {
      arena.release()
      backend.close()
    }
  })

  it('take f32 and bf16 in any mixture', () => {
    const [m, n, k] = [19, 45, 37]
    const [a, b, old] = [normals(m * k, 0), normals(n * k, 1), normals(m * n, 2)]
    const kinds: Float[] = ['f32', 'bf16']
    for (const { backend, tensor } of machines)
      for (const typeA of kinds)
        for (const typeB of kinds)
          for (const typeC of kinds) {
            const [x, y, c] = [tensor(a, [m, k], typeA), tensor(b, [n, k], typeB), tensor(old, [m, n], typeC)]
            const before = valuesOf(c)
            const want = product(valuesOf(x), valuesOf(y), m, n, k).map((sum, i) => sum + before[i]!)
            backend.run(gemmNt, { c, a: x, b: y, accumulate: 1, round: 0 })
            const limit = typeC === 'bf16' ? 2 ** -8 : 1e-6
            const error = difference(valuesOf(c), want)
            assert.ok(error <= limit, `${backend.name} ${typeA} ${typeB} ${typeC} differs by ${error}`)
          }
  })

  it('sum a long contraction in blocks, whatever the dtype of the result', () => {
    const [m, n, k] = [3, 33, 2500]
    const [a, b] = [normals(m * k, 3), normals(n * k, 4)]
    const want = product(a, b, m, n, k)
    for (const { backend, arena, tensor } of machines)
      for (const dtype of ['f32', 'bf16'] as const) {
        const c = arena.alloc(dtype, [m, n])
        backend.run(gemmNt, { c, a: tensor(a, [m, k]), b: tensor(b, [n, k]), accumulate: 0, round: 0 })
        assert.ok(difference(valuesOf(c), want) <= (dtype === 'bf16' ? 2 ** -8 : 2e-6), `${backend.name} ${dtype}`)
      }
  })

  it('of floats: transposed or not, rounded or not', () => {
    const [m, n, k] = [18, 50, 40]
    const [a, b] = [normals(m * k, 5), normals(n * k, 6)]
    for (const { backend, arena, tensor } of machines)
      for (const round of [false, true]) {
        const want = product(round ? a.map(roundBf16) : a, round ? b.map(roundBf16) : b, m, n, k)
        for (const transposedA of [false, true])
          for (const transposedB of [false, true]) {
            const left: Source = {
              tensor: transposedA ? tensor(transpose(a, m, k), [k, m]) : tensor(a, [m, k]),
              transposed: transposedA,
              round,
            }
            const right: Source = {
              tensor: transposedB ? tensor(transpose(b, n, k), [k, n]) : tensor(b, [n, k]),
              transposed: transposedB,
              round,
            }
            const c = arena.alloc('f32', [m, n])
            multiply(backend, arena.alloc.bind(arena), c, left, right, 0)
            const error = difference(c.floats(), want)
            assert.ok(error <= 1e-6, `${backend.name} ${transposedA} ${transposedB} ${round} differs by ${error}`)
          }
      }
  })

  const imageOf = (
    { backend, arena, tensor }: (typeof machines)[number],
    x: Float32Array,
    shape: number[],
    format: FormatName,
    more: Partial<Quantized> = {},
  ) =>
    rowImage(backend, arena.alloc.bind(arena), tensor(x, shape), {
      spec: { format, round: 'nearest', ...more },
      amax: arena.alloc('f32', [2]),
      random: arena.alloc('u32', [3]).zero(),
      stream: 0,
    })

  it('of images equal those of the values that the images stand for', () => {
    const [m, n, k] = [32, 48, 256]
    const [a, b] = [normals(m * k, 8), normals(n * k, 9)]
    for (const machine of machines)
      for (const [format, ofA, ofB] of [
        ['nvfp4'],
        ['nvfp4', { outer: 'row' }],
        ['nvfp4', {}, { outer: 'row' }],
        ['nvfp4', {}, { fourOverSix: 'mse' }],
        ['mxfp4'],
        ['mxfp8'],
        ['fp8'],
        ['fp8-tensor'],
      ] as const) {
        const { backend, arena, tensor } = machine
        const allocate = (dtype: DType, shape: readonly number[]) => arena.alloc(dtype, shape)
        const [x, y] = [imageOf(machine, a, [m, k], format, ofA), imageOf(machine, b, [n, k], format, ofB)]
        const values = [x, y].map(image => dequantizeImage(backend, allocate, image, 'f32').floats())
        const want = product(values[0]!, values[1]!, m, n, k)
        const check = (left: Source, right: Source, wanted: Float32Array, what: string) => {
          const c = arena.alloc('f32', [m, n])
          multiply(backend, allocate, c, left, right, 0)
          const error = difference(c.floats(), wanted)
          assert.ok(error <= 2e-6, `${backend.name} ${format} ${what} differs by ${error}`)
        }
        check({ image: x }, { image: y }, want, 'both')
        const floats: Source = { tensor: tensor(b, [n, k]), transposed: false, round: false }
        check({ image: x }, floats, product(values[0]!, b, m, n, k), 'image and floats')
        const turned: Source = { tensor: tensor(transpose(a, m, k), [k, m]), transposed: true, round: true }
        const rounded = product(a.map(roundBf16), values[1]!.map(roundBf16), m, n, k)
        check(turned, { image: y }, rounded, 'rounded floats and image')
      }
  })

  it('refuse an argument that the kernel does not have', () => {
    const { backend, tensor } = machines[0]!
    const c = tensor(Float32Array.of(1), [1, 1])
    const bindings = { c, a: c, b: c, accumulate: 0, round: 0, alpha: 1 }
    assert.throws(() => backend.run(gemmNt, bindings), { message: 'gemm_nt has no argument alpha' })
  })

  it('say which operands cannot be multiplied', () => {
    const machine = machines[0]!
    const { backend, arena, tensor } = machine
    const x = normals(16 * 32, 10)
    const c = arena.alloc('f32', [16, 16])
    const allocate = arena.alloc.bind(arena)
    const left = { image: imageOf(machine, x, [16, 32], 'nvfp4') }
    const right = { image: imageOf(machine, x, [16, 32], 'mxfp4') }
    assert.throws(
      () => multiply(backend, allocate, c, left, right, 0),
      /nvfp4 by mxfp4: both operands must be of one format/,
    )
    const plain = (round: boolean) => ({ tensor: tensor(x, [16, 32]), transposed: false, round })
    assert.throws(
      () => multiply(backend, allocate, c, plain(true), plain(false), 0),
      /both be rounded to BF16, or neither/,
    )
  })

  it('carry a scale that is not a number to its row and column of the result, and nowhere else', () => {
    const [m, n, blocks] = [9, 35, 3]
    for (const { backend, arena } of machines) {
      const bytes = (rows: number, cols: number, value: number) =>
        arena.alloc('u8', [rows, cols]).write(new Uint8Array(rows * cols).fill(value))
      const amax = arena.alloc('f32', [2]).write(Float32Array.of(1, 0))
      const kinds = [
        { codes: 8, one: 0x38, nan: 0x7f },
        { codes: 16, one: 127, nan: 0xff },
      ]
      for (const { codes, one, nan } of kinds) {
        const scalesA = new Uint8Array(m * blocks).fill(one)
        const scalesB = new Uint8Array(n * blocks).fill(one)
        scalesA[4 * blocks + 1] = nan
        scalesB[33 * blocks + 2] = nan
        const c = arena.alloc('f32', [m, n])
        const operands = {
          c,
          a_codes: bytes(m, codes * blocks, 0x11),
          a_scales: arena.alloc('u8', [m, blocks]).write(scalesA),
          b_codes: bytes(n, codes * blocks, 0x22),
          b_scales: arena.alloc('u8', [n, blocks]).write(scalesB),
          accumulate: 0,
        }
        if (codes === 16) backend.run(gemmMxfp4, operands)
        else
          backend.run(gemmNvfp4, {
            ...operands,
            ...{ a_amax: amax, b_amax: amax, a_bound: 1, b_bound: 1, a_per_row: 0, b_per_row: 0 },
          })
        const result = c.floats()
        for (let i = 0; i < m; i++)
          for (let j = 0; j < n; j++) {
            const want = i === 4 || j === 33 ? Number.NaN : codes * blocks
            assert.ok(
              Object.is(result[i * n + j], want),
              `${backend.name} ${codes}: [${i}, ${j}] is ${result[i * n + j]}`,
            )
          }
      }
    }
  })
})
