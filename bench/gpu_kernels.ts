import { gemmNt } from '../src/kernels/gemm/gemm.ts'
import { gemmNvfp4 } from '../src/kernels/gemm_nvfp4/gemm_nvfp4.ts'
import { quantize } from '../src/kernels/quantize/quantize.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { evaluateWord } from '../src/tensor/bind.ts'
import { type Activation, dtypes } from '../src/tensor/dtype.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { sizeOf, Tensor } from '../src/tensor/tensor.ts'
import { allowed, caseArrays, difference, runCase, variantsOf } from '../test/cases.ts'

/** Conformance and speed of single kernels on a backend whose memory is a GPU's. */

export interface Failure {
  readonly test: string
  readonly problem: string
}

/** The cases of a kernel whose results are not within tolerance of the reference's; a case that throws fails, and so do those after a lost GPU. */
export function failedCases(
  kernel: Kernel,
  backend: Backend,
  reference: Backend,
): { cases: number; failures: Failure[] } {
  const failures: Failure[] = []
  let cases = 0
  for (const testCase of kernel.cases.filter(({ bench }) => !bench))
    for (const act of variantsOf(kernel)) {
      cases++
      const own = kernel.cuda?.tolerance
      const judged = { ...kernel, tolerance: (typeof own === 'object' ? own[act] : own) ?? kernel.tolerance }
      const test = `${testCase.name ?? Object.values(testCase.dims).join(' x ')} ${JSON.stringify(testCase.scalars ?? {})} ${act}`
      const arrays = caseArrays(kernel, testCase, act)
      try {
        const want = runCase(reference, kernel, testCase, act, arrays)
        const got = runCase(backend, kernel, testCase, act, arrays)
        for (const [name, array] of want) {
          const error = difference(got.get(name)!, array)
          const limit = allowed(judged, name, array)
          if (!(error <= limit))
            failures.push({ test, problem: `${name} differs by ${error.toPrecision(3)}, allowed ${limit}` })
        }
      } catch (error) {
        failures.push({ test, problem: (error as Error).message.split('\n').slice(0, 3).join(' ').slice(0, 300) })
      }
    }
  return { cases, failures }
}

export interface Timing {
  /** Median of the device's own time. */
  readonly milliseconds: number
  /** Bytes of the arguments, those read and written counted twice. */
  readonly gigabytesPerSecond: number
  readonly teraflops: number | undefined
}

/** Random bits that make finite numbers of every float; integers are 0. Drawing normal numbers for gigabytes would take minutes. */
function fill(tensor: Tensor): Tensor {
  if (tensor.dtype === 'i32') return tensor.zero()
  const words = new Uint32Array(tensor.bytes / 4 + 1)
  let state = 1
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    words[i] = (state & 0x807f807f) | 0x3f003f00
  }
  return tensor.write(new dtypes[tensor.dtype].array(words.buffer, 0, tensor.size) as never)
}

const isFloat = (dtype: string): boolean => dtype === 'act' || dtype === 'float'

/** The device's time for a case with BF16 activations. */
export function timeCase(kernel: Kernel, testCase: Case, backend: Backend, act: Activation = 'bf16'): Timing {
  const special: Record<string, unknown> = testCase.inputs?.(testCase.dims) ?? {}
  const tensors: Record<string, Tensor> = {}
  let bytes = 0
  for (const [name, arg] of Object.entries(kernel.args)) {
    if (arg.kind === 'scalar' || (arg.optional && !testCase.with?.includes(name))) continue
    const dtype = isFloat(arg.dtype) ? act : (arg.dtype as keyof typeof dtypes)
    const shape = arg.shape.map(word => evaluateWord(word, testCase.dims)!)
    const memory = backend.alloc(Math.max(64, sizeOf(shape) * dtypes[dtype].bytes))
    const tensor = new Tensor(backend, memory, 0, dtype, shape)
    if (special[name] && dtype !== 'bf16') tensor.write(special[name] as never)
    else fill(tensor)
    tensors[name] = tensor
    bytes += tensor.bytes * (arg.access === 'inout' ? 2 : 1)
  }
  const samples: number[] = []
  const run = () => backend.run(kernel, { ...testCase.scalars, ...tensors } as never)
  try {
    for (let i = 0; i < 3; i++) run()
    backend.profiler = (_, seconds) => samples.push(seconds)
    for (let i = 0; i < 15; i++) run()
  } finally {
    backend.profiler = undefined
    for (const tensor of Object.values(tensors)) backend.free(tensor.memory)
  }
  const seconds = samples.toSorted((a, b) => a - b)[samples.length >> 1]!
  const flops = testCase.flops ?? kernel.flops?.(testCase.dims, (testCase.scalars ?? {}) as Record<string, number>)
  return {
    milliseconds: seconds * 1000,
    gigabytesPerSecond: bytes / seconds / 1e9,
    teraflops: flops ? flops / seconds / 1e12 : undefined,
  }
}

/** A kernel's bench case at other sizes, with numbers as `fill` makes them. */
function resized(kernel: unknown, dims: Record<string, number>, flops?: number): readonly [Kernel, Case] {
  const { inputs, flops: small, ...benchCase } = (kernel as Kernel).cases.find(({ bench }) => bench)!
  const size = { ...benchCase.dims, ...dims }
  return [kernel as Kernel, { ...benchCase, dims: size, ...(flops ? { flops } : {}) }]
}

/** Sizes of a layer that fills a GPU. */
export const largeCases: readonly (readonly [Kernel, Case])[] = [
  resized(gemmNt, { m: 8192, n: 8192, k: 2048 }, 2 * 8192 * 8192 * 2048),
  resized(gemmNvfp4, { m: 8192, n: 8192, blocks: 128 }, 2 * 8192 * 8192 * 2048),
  ...Object.values(quantize.nvfp4)
    .filter(kernel => typeof kernel === 'object' && 'name' in kernel)
    .map(kernel => resized(kernel, { rows: 8192, cols: 8192 })),
]
