import { spawnSync } from 'node:child_process'
import { cpus } from 'node:os'
import koffi from 'koffi'
import { cpuBackend } from '../src/backends/cpu.ts'
import { chooseLevel } from '../src/backends/levels.ts'
import { buildNative } from '../src/backends/native.ts'
import { packageRoot } from '../src/backends/open.ts'
import { fmaPeak } from '../src/kernels/fma_peak/fma_peak.ts'
import { kernels } from '../src/kernels/index.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { evaluateWord } from '../src/tensor/bind.ts'
import { dtypes } from '../src/tensor/dtype.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { Tensor } from '../src/tensor/tensor.ts'
import { caseArrays } from '../test/cases.ts'

/**
 * Times the bench cases of the contracts on the cpu backend. A machine's speed wanders, so in every round each case runs on each number
 * of threads, next to a measurement of the rate of fused multiply-adds; medians over rounds are compared, and what
 * counts is their ratio.
 */

export interface KernelOptions {
  /** Part of the names of the kernels to time; default: all. */
  readonly only: string
  readonly level: string | undefined
  /** Numbers of threads to time. */
  readonly threads: readonly number[]
  /** Seconds that a case may take. */
  readonly seconds: number
}

/** Medians of one case on one number of threads. */
export interface KernelTiming {
  readonly kernel: string
  readonly dims: Readonly<Record<string, number>>
  readonly level: string
  readonly threads: number
  readonly milliseconds: number
  /** Where the case counts floating-point operations, and the same measured of FP32 fused multiply-adds alone. */
  readonly gflops?: number
  readonly peakGflops: number
  /** Bytes of the arguments, those read and written counted twice, where it does not. */
  readonly gigabytesPerSecond?: number
  readonly commit: string
  readonly device: string
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!

const secondsOf = (body: () => void): number => {
  const start = process.hrtime.bigint()
  body()
  return Number(process.hrtime.bigint() - start) / 1e9
}

/** Short hash of the commit that is measured, with a plus sign if files have changed since. */
export function commitOf(root: string): string {
  const git = (...args: string[]) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout?.trim() ?? ''
  const hash = git('rev-parse', '--short', 'HEAD')
  return hash ? hash + (git('status', '--porcelain', '--untracked-files=no') ? '+' : '') : 'unknown'
}

/** The tensors of a case, in the backend's memory. */
function tensorsOf(backend: Backend, kernel: Kernel, benchCase: Case): Record<string, Tensor> {
  const tensors: Record<string, Tensor> = {}
  for (const [name, array] of caseArrays(kernel, benchCase, 'f32')) {
    const arg = kernel.args[name]!
    if (arg.kind !== 'tensor') continue
    const dtype = arg.dtype === 'act' || arg.dtype === 'float' ? 'f32' : arg.dtype
    const shape = arg.shape.map(word => evaluateWord(word, benchCase.dims)!)
    const memory = backend.alloc(Math.max(64, array.length * dtypes[dtype].bytes))
    tensors[name] = new Tensor(backend, memory, 0, dtype, shape).write(array)
  }
  return tensors
}

function bytesOf(kernel: Kernel, tensors: Record<string, Tensor>): number {
  let bytes = 0
  for (const [name, tensor] of Object.entries(tensors)) {
    const arg = kernel.args[name]!
    bytes += arg.kind === 'tensor' && arg.access === 'inout' ? 2 * tensor.bytes : tensor.bytes
  }
  return bytes
}

export async function timeKernels(options: KernelOptions, report: (line: string) => void): Promise<KernelTiming[]> {
  const root = packageRoot()
  const level = chooseLevel(options.level)
  const library = await buildNative(kernels, `${root}/src/kernels`, root, level, report)
  const backend = cpuBackend(library, level.name, Math.max(...options.threads))
  const useThreads: (threads: number) => void = koffi.load(library).func('void halfbyte_threads(int32_t threads)')
  const shared = {
    level: level.name,
    commit: commitOf(root),
    device: `${cpus()[0]?.model ?? 'unknown'} x ${cpus().length}`,
  }

  const run = (kernel: Kernel, benchCase: Case, tensors: Record<string, Tensor>) =>
    secondsOf(() => backend.run(kernel, { ...benchCase.scalars, ...tensors } as never))
  const peakKernel = fmaPeak as unknown as Kernel
  const peaks = new Map(
    options.threads.map(threads => {
      const single = fmaPeak.cases.find(({ bench }) => bench)! as Case
      const peakCase: Case = { ...single, dims: { tasks: threads } }
      return [threads, { peakCase, tensors: tensorsOf(backend, peakKernel, peakCase), flops: threads * single.flops! }]
    }),
  )

  const timings: KernelTiming[] = []
  for (const kernel of kernels) {
    if (!kernel.name.includes(options.only)) continue
    for (const benchCase of kernel.cases.filter(({ bench }) => bench)) {
      const tensors = tensorsOf(backend, kernel, benchCase)
      const samples = options.threads.map(() => [] as number[])
      const peakSamples = options.threads.map(() => [] as number[])
      const deadline = Date.now() + options.seconds * 1000
      for (let round = 0; round < 3 || (round < 25 && Date.now() < deadline); round++)
        options.threads.forEach((threads, i) => {
          const { peakCase, tensors: peakTensors } = peaks.get(threads)!
          useThreads(threads)
          run(kernel, benchCase, tensors)
          peakSamples[i]!.push(run(peakKernel, peakCase, peakTensors))
          samples[i]!.push(run(kernel, benchCase, tensors))
        })
      options.threads.forEach((threads, i) => {
        const seconds = median(samples[i]!)
        timings.push({
          kernel: kernel.name,
          dims: benchCase.dims,
          threads,
          milliseconds: seconds * 1e3,
          ...(benchCase.flops
            ? { gflops: benchCase.flops / seconds / 1e9 }
            : { gigabytesPerSecond: bytesOf(kernel, tensors) / seconds / 1e9 }),
          peakGflops: peaks.get(threads)!.flops / median(peakSamples[i]!) / 1e9,
          ...shared,
        })
      })
      for (const tensor of Object.values(tensors)) backend.free(tensor.memory)
    }
  }
  backend.close()
  return timings
}
