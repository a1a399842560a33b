import { median } from '../src/compare/statistics.ts'
import { toBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import { amaxBoth } from '../src/kernels/amax/amax.ts'
import { attention, attentionBackward } from '../src/kernels/attention/attention.ts'
import { convSilu, convSiluBackward } from '../src/kernels/conv_silu/conv_silu.ts'
import { gatedNorm, gatedNormBackward } from '../src/kernels/gated_norm/gated_norm.ts'
import { gemmNt } from '../src/kernels/gemm/gemm.ts'
import { gemmNvfp4 } from '../src/kernels/gemm_nvfp4/gemm_nvfp4.ts'
import { quantize } from '../src/kernels/quantize/quantize.ts'
import { rmsNormBackward } from '../src/kernels/rms_norm/rms_norm.ts'
import { ssd, ssdBackward } from '../src/kernels/ssd/ssd.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { evaluateWord } from '../src/tensor/bind.ts'
import type { CudaKernel } from '../src/tensor/cuda.ts'
import { type Activation, dtypes } from '../src/tensor/dtype.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { sizeOf, Tensor } from '../src/tensor/tensor.ts'
import { allowed, caseArrays, difference, runCase, variantsOf } from '../test/cases.ts'

/** Conformance and speed of single kernels on a backend whose memory is a GPU's. */

export interface Failure {
  readonly test: string
  readonly problem: string
}

/** A kernel as it is, and where its blocks take piece after piece of large matrices by a single block, which does so with the small ones of cases. */
function launched(kernel: Kernel): readonly { kernel: Kernel; by: string }[] {
  const plain = { kernel, by: '' }
  const by = (launches: CudaKernel['launches']) => [
    plain,
    { kernel: { ...kernel, cuda: { ...kernel.cuda, launches } }, by: ' by one block' },
  ]
  const { cuda } = kernel
  if (!cuda || cuda.anyBlocks) return by(() => [{ grid: 1, block: 256 }])
  if (!cuda.persistent) return [plain]
  return by((dims, scalars, { device, ...call }) =>
    cuda.launches(dims, scalars, { ...call, ...(device && { device: { ...device, multiprocessors: 1 } }) }),
  )
}

/** The cases of a kernel whose results are not within tolerance of the reference's; a case that throws fails, and so do those after a lost GPU. */
export function failedCases(
  kernel: Kernel,
  backend: Backend,
  reference: Backend,
): { cases: number; failures: Failure[] } {
  const failures: Failure[] = []
  const ways = launched(kernel)
  let cases = 0
  for (const testCase of kernel.cases.filter(({ bench }) => !bench))
    for (const act of variantsOf(kernel)) {
      const own = kernel.cuda?.tolerance
      const judged = { ...kernel, tolerance: (typeof own === 'object' ? own[act] : own) ?? kernel.tolerance }
      const test = `${testCase.name ?? Object.values(testCase.dims).join(' x ')} ${JSON.stringify(testCase.scalars ?? {})} ${act}`
      const arrays = caseArrays(kernel, testCase, act)
      cases += ways.length
      try {
        const want = runCase(reference, kernel, testCase, act, arrays)
        for (const { kernel, by } of ways) {
          const got = runCase(backend, kernel, testCase, act, arrays)
          for (const [name, array] of want) {
            const error = difference(got.get(name)!, array)
            const limit = allowed(judged, name, array)
            if (!(error <= limit))
              failures.push({ test, problem: `${name}${by} differs by ${error.toPrecision(3)}, allowed ${limit}` })
          }
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

/** Floats are normal, integers 0, bytes such that they are finite codes and scales. A few numbers are repeated: gigabytes would take long to draw. */
function fill(tensor: Tensor): Tensor {
  const { dtype, size } = tensor
  if (dtype === 'i32' || dtype === 'u32') return tensor.zero()
  const random = new Stream(1, 3)
  const few = Math.min(size, 2 ** 20)
  const floats = Float32Array.from({ length: few }, () => random.normal())
  const drawn =
    dtype === 'u8' ? Uint8Array.from(floats, x => 0x30 + Math.abs(x)) : dtype === 'bf16' ? toBf16(floats) : floats
  const all = new dtypes[dtype].array(size)
  for (let at = 0; at < size; at += few) all.set(drawn.subarray(0, Math.min(few, size - at)) as never, at)
  return tensor.write(all as never)
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
  const seconds = median(samples)
  const flops = testCase.flops ?? kernel.flops?.(testCase.dims, (testCase.scalars ?? {}) as Record<string, number>)
  return {
    milliseconds: seconds * 1000,
    gigabytesPerSecond: bytes / seconds / 1e9,
    teraflops: flops ? flops / seconds / 1e12 : undefined,
  }
}

/** The largest magnitude of what `fill` makes, and that all of it is finite. */
const filledAmax = () => ({ amax: Float32Array.of(5.5, 0), amax_t: Float32Array.of(5.5, 0) })

/** A kernel's bench cases at other sizes, with numbers as `fill` makes them. */
function resized(
  kernel: unknown,
  dims: Record<string, number>,
  scalars: Record<string, number> = {},
): (readonly [Kernel, Case])[] {
  const { cases } = kernel as Kernel
  return cases
    .filter(({ bench }) => bench)
    .map(({ flops: _, ...benchCase }) => {
      const changed = { dims: { ...benchCase.dims, ...dims }, scalars: { ...benchCase.scalars, ...scalars } }
      return [kernel as Kernel, { ...benchCase, ...changed, inputs: filledAmax as never }]
    })
}

/** The first of them. */
const oneResized = (...given: Parameters<typeof resized>) => resized(...given)[0]!

const kernelsOf = (format: 'nvfp4' | 'fp8') =>
  Object.values(quantize[format]).filter(kernel => typeof kernel === 'object' && 'name' in kernel)

/** Shapes of Mamba-2 blocks: of preset base with 16 x 1024 tokens, and of hybrid-1.2b with one sequence of 8192. */
const mambaShapes = [
  { rows: 16384, inner: 1536, heads: 32, groups: 4, state: 64, chunk: 64, sequence: 1024 },
  { rows: 8192, inner: 4096, heads: 64, groups: 8, state: 128, chunk: 128, sequence: 8192 },
]

/** Sizes of layers that fill a GPU. */
export const largeCases: readonly (readonly [Kernel, Case])[] = [
  oneResized(gemmNt, { m: 8192, n: 8192, k: 2048 }),
  oneResized(gemmNvfp4, { m: 8192, n: 8192, blocks: 128 }),
  ...kernelsOf('nvfp4').flatMap(kernel => resized(kernel, { rows: 8192, cols: 8192 })),
  ...kernelsOf('fp8').flatMap(kernel => resized(kernel, { rows: 8192, cols: 8192, row_blocks: 64, col_blocks: 64 })),
  oneResized(amaxBoth, { rows: 8192, cols: 8192 }),
  oneResized(rmsNormBackward, { rows: 8192, cols: 2048 }),
  ...[attention, attentionBackward].flatMap(kernel => [
    oneResized(kernel, { rows: 8192, heads: 16, columns: 48, dim: 128 }, { sequence: 2048 }),
    oneResized(kernel, { rows: 8192, heads: 16, columns: 48, dim: 128 }, { sequence: 8192 }),
    oneResized(kernel, { rows: 32768, heads: 12, columns: 36, dim: 64 }, { sequence: 1024 }),
  ]),
  ...mambaShapes.flatMap(({ rows, inner, heads, ...scalars }) => {
    const channels = inner + 2 * scalars.groups * scalars.state
    const width = inner + channels + heads
    const { sequence, groups } = scalars
    return [
      ...[ssd, ssdBackward].map(kernel =>
        oneResized(kernel, { rows, inner, heads, channels, width }, { ...scalars, offset: inner + channels }),
      ),
      ...[convSilu, convSiluBackward].map(kernel =>
        oneResized(kernel, { rows, channels, width }, { sequence, offset: inner }),
      ),
      ...[gatedNorm, gatedNormBackward].map(kernel => oneResized(kernel, { rows, cols: inner, groups, width })),
    ]
  }),
]
