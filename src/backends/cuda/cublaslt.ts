import koffi, { type LibraryHandle } from 'koffi'
import type { ScaleLayout } from '../../tensor/cuda.ts'
import { UnavailableError } from '../errors.ts'
import { type Found, loadLibrary, type NativeFunction, versionText } from './libraries.ts'

/**
 * Matrix products by cuBLASLt. The algorithm is the first that its heuristic names for the shapes, dtypes and alignments: never one that
 * won a race, so that a resumed run takes the same.
 *
 * cuBLASLt counts in columns. Rows of ours are its columns, so c[m,n] = a b is asked for as the transposes' cᵀ = bᵀ aᵀ.
 */

const out = () => koffi.out('void *')

const prototypes: Readonly<Record<string, readonly (string | ReturnType<typeof out>)[]>> = {
  cublasLtCreate: [out()],
  cublasLtDestroy: ['uint64_t'],
  cublasLtMatmulDescCreate: [out(), 'int32_t', 'int32_t'],
  cublasLtMatmulDescDestroy: ['uint64_t'],
  cublasLtMatmulDescSetAttribute: ['uint64_t', 'int32_t', 'void *', 'uint64_t'],
  cublasLtMatrixLayoutCreate: [out(), 'int32_t', 'uint64_t', 'uint64_t', 'int64_t'],
  cublasLtMatrixLayoutDestroy: ['uint64_t'],
  cublasLtMatrixLayoutSetAttribute: ['uint64_t', 'int32_t', 'void *', 'uint64_t'],
  cublasLtMatmulPreferenceCreate: [out()],
  cublasLtMatmulPreferenceDestroy: ['uint64_t'],
  cublasLtMatmulPreferenceSetAttribute: ['uint64_t', 'int32_t', 'void *', 'uint64_t'],
  cublasLtMatmulAlgoGetHeuristic: [...Array(7).fill('uint64_t'), 'int32_t', out(), out()],
  cublasLtMatmulAlgoConfigGetAttribute: ['void *', 'int32_t', out(), 'uint64_t', out()],
  cublasLtMatmul: [...Array(12).fill('uint64_t'), 'void *', 'uint64_t', 'uint64_t', 'uint64_t'],
}

const COMPUTE_32F = 68
const dataTypes = { f32: 0, bf16: 14, e4m3: 28, e2m1: 33 } as const
const scaleModes: Readonly<Record<ScaleLayout, number>> = { tensor: 0, rows16: 1, rows128: 4, tiles128: 5 }
const POINTER_MODE = 2
const POINTER_MODE_DEVICE = 1
const TRANSPOSE_A = 3
const TRANSPOSE_B = 4
/** Of the first operand; the second's are the next attributes. */
const SCALE_POINTER = 17
const SCALE_MODE = 31
const BATCH_COUNT = 5
const BATCH_STRIDE = 6
const MOST_WORKSPACE = 1
/** Least alignments of the first operand, the second, c and d are consecutive attributes. */
const ALIGNMENT = 5
/** cublasLtMatmulHeuristicResult_t: 64 bytes of algorithm, workspace size, status, waves, reserved. */
/** What tells algorithms apart, by their attribute numbers. */
const algorithmParts = { algorithm: 0, tile: 1, stages: 6, 'split-k': 2, reduction: 3 } as const
const RESULT_BYTES = 96
const STATE_OFFSET = 72
const NOT_SUPPORTED = 15
/** cuBLAS 12.9 is the first with all layouts of scales. */
const leastForScales = 12_090

/** Bytes of device memory that a product may use beside its matrices. */
export const productWorkspace = 32 * 2 ** 20

type DataType = keyof typeof dataTypes

export interface ProductShape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly operands: DataType
  readonly result: DataType
  readonly transposeA: boolean
  readonly transposeB: boolean
  readonly batch: number
  /** Of operands that are codes. */
  readonly scales?: { readonly a: ScaleLayout; readonly b: ScaleLayout }
}

/** Addresses in device memory. */
export interface ProductAddresses {
  readonly a: bigint
  readonly b: bigint
  readonly c: bigint
  readonly alpha: bigint
  readonly beta: bigint
  readonly workspace: bigint
  readonly scales?: { readonly a: bigint; readonly b: bigint }
}

interface Plan {
  readonly descriptor: bigint
  readonly layouts: readonly [bigint, bigint, bigint]
  readonly algorithm: Uint8Array
  readonly route: string
}

/** The power of two, at most 256, that divides an address. */
const alignmentOf = (address: bigint): number => {
  const low = Number(address & 255n)
  return low === 0 ? 256 : low & -low
}

/** cublasLtGetVersion counts 10,000 times the major and 100 times the minor version. */
export const cublasLtVersion = (library: LibraryHandle): number => {
  const version = Number(library.func('cublasLtGetVersion', 'uint64_t', [])())
  return Math.floor(version / 10_000) * 1000 + (Math.floor(version / 100) % 100) * 10
}

export class CublasLt {
  readonly version: number
  readonly path: string
  readonly #functions: Readonly<Record<string, NativeFunction>>
  readonly #describe: (code: number) => string
  readonly #handle: bigint
  readonly #plans = new Map<string, Plan | undefined>()
  /** Descriptors and layouts of plans, with what destroys them. */
  readonly #made: { readonly destroy: string; readonly handle: bigint }[] = []

  /** @throws UnavailableError naming the version found and wanted, or that the library does not start on the GPU. */
  constructor(directories: readonly string[], driverMajor: number, gpu: string) {
    const advice = `pip install nvidia-cublas${driverMajor === 12 ? '-cu12' : ''}, or install the CUDA toolkit`
    const found: Found = loadLibrary(
      {
        name: 'cublasLt',
        purpose: 'matrix products',
        advice,
        version: cublasLtVersion,
        least: 12_000,
        newestMajor: driverMajor,
      },
      directories,
    )
    this.version = found.version
    this.path = found.path
    this.#functions = Object.fromEntries(
      Object.entries(prototypes).map(([name, types]) => [name, found.library.func(name, 'int32_t', [...types])]),
    )
    this.#describe = found.library.func('cublasLtGetStatusString', 'str', ['int32_t'])
    try {
      this.#handle = this.#create('cublasLtCreate')
    } catch (error) {
      const library = `libcublasLt ${versionText(this.version)} (${this.path})`
      throw new UnavailableError(`${library} does not start on ${gpu}: ${(error as Error).message}: ${advice}`)
    }
  }

  #call(name: string, ...given: unknown[]): void {
    const code: number = this.#functions[name]!(...given)
    if (code !== 0) throw new Error(`${name} failed with ${this.#describe(code)}`)
  }

  #create(name: string, ...given: unknown[]): bigint {
    const handle = new BigUint64Array(1)
    this.#call(name, handle, ...given)
    return handle[0]!
  }

  /** What is kept until the library is closed. */
  #keep(what: 'MatmulDesc' | 'MatrixLayout', ...given: unknown[]): bigint {
    const handle = this.#create(`cublasLt${what}Create`, ...given)
    this.#made.push({ destroy: `cublasLt${what}Destroy`, handle })
    return handle
  }

  #layout(dtype: DataType, rows: number, cols: number, batch: number): bigint {
    const layout = this.#keep('MatrixLayout', dataTypes[dtype], rows, cols, rows)
    if (batch > 1) {
      this.#call('cublasLtMatrixLayoutSetAttribute', layout, BATCH_COUNT, Int32Array.of(batch), 4)
      this.#call('cublasLtMatrixLayoutSetAttribute', layout, BATCH_STRIDE, BigInt64Array.of(BigInt(rows * cols)), 8)
    }
    return layout
  }

  #setScales(descriptor: bigint, { a, b }: { readonly a: bigint; readonly b: bigint }): void {
    for (const [i, address] of [b, a].entries())
      this.#call('cublasLtMatmulDescSetAttribute', descriptor, SCALE_POINTER + i, BigUint64Array.of(address), 8)
  }

  /** Undefined if the heuristic names no algorithm. */
  #plan(shape: ProductShape, alignments: readonly [number, number, number]): Plan | undefined {
    const { m, n, k, operands, result, transposeA, transposeB, batch, scales } = shape
    const descriptor = this.#keep('MatmulDesc', COMPUTE_32F, dataTypes.f32)
    const describe = (attribute: number, value: number) =>
      this.#call('cublasLtMatmulDescSetAttribute', descriptor, attribute, Int32Array.of(value), 4)
    describe(TRANSPOSE_A, transposeB ? 1 : 0)
    describe(TRANSPOSE_B, transposeA ? 1 : 0)
    describe(POINTER_MODE, POINTER_MODE_DEVICE)
    if (scales) {
      for (const [i, layout] of [scales.b, scales.a].entries())
        if (layout !== 'tensor') describe(SCALE_MODE + i, scaleModes[layout])
      // The heuristic asks whether there are scales; each product then sets its own.
      this.#setScales(descriptor, { a: 256n, b: 256n })
    }
    const first = transposeB ? this.#layout(operands, k, n, batch) : this.#layout(operands, n, k, batch)
    const second = transposeA ? this.#layout(operands, m, k, batch) : this.#layout(operands, k, m, batch)
    const c = this.#layout(result, n, m, batch)

    const preference = this.#create('cublasLtMatmulPreferenceCreate')
    const prefer = (attribute: number, value: BigUint64Array | Uint32Array) =>
      this.#call('cublasLtMatmulPreferenceSetAttribute', preference, attribute, value, value.byteLength)
    prefer(MOST_WORKSPACE, BigUint64Array.of(BigInt(productWorkspace)))
    const [ofA, ofB, ofC] = alignments
    for (const [i, alignment] of [ofB, ofA, ofC, ofC].entries()) prefer(ALIGNMENT + i, Uint32Array.of(alignment))
    const results = new Uint8Array(RESULT_BYTES)
    const count = new Int32Array(1)
    const code: number = this.#functions.cublasLtMatmulAlgoGetHeuristic!(
      this.#handle,
      descriptor,
      first,
      second,
      c,
      c,
      preference,
      1,
      results,
      count,
    )
    this.#call('cublasLtMatmulPreferenceDestroy', preference)
    // On a device without such tensor cores the heuristic refuses codes and their scales in one way or another.
    if (code !== 0 && code !== NOT_SUPPORTED && !scales)
      throw new Error(`cublasLtMatmulAlgoGetHeuristic failed with ${this.#describe(code)}`)
    if (code !== 0 || count[0] === 0 || new DataView(results.buffer).getInt32(STATE_OFFSET, true) !== 0)
      return undefined
    const algorithm = results.subarray(0, 64)
    const route = `cuBLASLt ${operands} to ${result}, ${this.#describeAlgorithm(algorithm)}`
    return { descriptor, layouts: [first, second, c], algorithm, route }
  }

  /** `algorithm 66, tile 20, ...`: cuBLASLt's own numbers. */
  #describeAlgorithm(algorithm: Uint8Array): string {
    const written = new BigUint64Array(1)
    return Object.entries(algorithmParts)
      .map(([name, attribute]) => {
        const value = new Int32Array(1)
        this.#call('cublasLtMatmulAlgoConfigGetAttribute', algorithm, attribute, value, 4, written)
        return `${name} ${value[0]}`
      })
      .join(', ')
  }

  #find(shape: ProductShape, alignments: readonly [number, number, number]): Plan | undefined {
    const { m, n, k, operands, result, transposeA, transposeB, batch, scales } = shape
    const kinds = scales ? `${scales.a} ${scales.b}` : ''
    const key = `${m} ${n} ${k} ${operands} ${result} ${transposeA} ${transposeB} ${batch} ${kinds} ${alignments}`
    if (!this.#plans.has(key)) this.#plans.set(key, this.#plan(shape, alignments))
    return this.#plans.get(key)
  }

  /** Whether there is an algorithm for matrices aligned to 256 bytes. */
  offers(shape: ProductShape): boolean {
    if (shape.scales && this.version < leastForScales) return false
    return this.#find(shape, [256, 256, 256]) !== undefined
  }

  /** c = alpha a b + beta c, on the stream. Returns which algorithm serves it. */
  multiply(shape: ProductShape, at: ProductAddresses, stream: bigint): string {
    const { a, b, c, alpha, beta, workspace } = at
    const plan = this.#find(shape, [alignmentOf(a), alignmentOf(b), alignmentOf(c)])
    if (!plan) {
      const { m, n, k, operands, result, batch } = shape
      throw new Error(
        `cuBLASLt has no algorithm for a product [${m}, ${k}] x [${k}, ${n}] of ${operands} into ${result}${batch > 1 ? `, ${batch} at once` : ''}`,
      )
    }
    if (at.scales) this.#setScales(plan.descriptor, at.scales)
    const [first, second, third] = plan.layouts
    this.#call(
      'cublasLtMatmul',
      this.#handle,
      plan.descriptor,
      alpha,
      b,
      first,
      a,
      second,
      beta,
      c,
      third,
      c,
      third,
      plan.algorithm,
      workspace,
      BigInt(productWorkspace),
      stream,
    )
    return plan.route
  }

  close(): void {
    for (const { destroy, handle } of this.#made) this.#call(destroy, handle)
    this.#made.length = 0
    this.#call('cublasLtDestroy', this.#handle)
  }
}
