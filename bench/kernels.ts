import { spawnSync } from 'node:child_process'
import { cpus } from 'node:os'
import koffi from 'koffi'
import { cpuBackend } from '../src/backends/cpu.ts'
import { chooseLevel } from '../src/backends/levels.ts'
import { buildNative } from '../src/backends/native.ts'
import { packageRoot } from '../src/backends/open.ts'
import { median } from '../src/compare/statistics.ts'
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
 * of threads between two measurements of the rate of fused multiply-adds, and what counts is the ratio to their mean, by its median over the
 * rounds.
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
  /** Of the peak measured around it: by the clock, and on one thread also by processor time, which a busy machine disturbs less. */
  readonly ofPeak?: number
  readonly ofPeakByCpu?: number
  /** Bytes of the arguments, those read and written counted twice, where it does not. */
  readonly gigabytesPerSecond?: number
  readonly commit: string
  readonly device: string
}

/** Seconds by the clock and by processor time. */
interface Spent {
  readonly clock: number
  readonly cpu: number
}

const spentOn = (body: () => void): Spent => {
  const before = process.cpuUsage()
  const start = process.hrtime.bigint()
  body()
  const clock = Number(process.hrtime.bigint() - start) / 1e9
  const { user, system } = process.cpuUsage(before)
  return { clock, cpu: (user + system) / 1e6 }
}

/** One run of a case, and the mean of the peak runs before and after it. */
interface Sample {
  readonly kernel: Spent
  readonly peak: Spent
}

/** What the case reaches of the peak. */
const ratioOf = (samples: readonly Sample[], flops: number, peakFlops: number, by: keyof Spent): number =>
  median(samples.map(({ kernel, peak }) => ((flops / kernel[by]) * peak[by]) / peakFlops))

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
  const backend = cpuBackend(library, level, Math.max(...options.threads))
  const useThreads: (threads: number) => void = koffi.load(library).func('void halfbyte_threads(int32_t threads)')
  const shared = {
    level: level.name,
    commit: commitOf(root),
    device: `${cpus()[0]?.model ?? 'unknown'} x ${cpus().length}`,
  }

  const run = (kernel: Kernel, benchCase: Case, tensors: Record<string, Tensor>) =>
    spentOn(() => backend.run(kernel, { ...benchCase.scalars, ...tensors } as never))
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
      const samples = options.threads.map(() => [] as Sample[])
      const deadline = Date.now() + options.seconds * 1000
      for (let round = 0; round < 3 || (round < 25 && Date.now() < deadline); round++)
        options.threads.forEach((threads, i) => {
          const { peakCase, tensors: peakTensors } = peaks.get(threads)!
          useThreads(threads)
          run(kernel, benchCase, tensors)
          const before = run(peakKernel, peakCase, peakTensors)
          const spent = run(kernel, benchCase, tensors)
          const after = run(peakKernel, peakCase, peakTensors)
          const peak = { clock: (before.clock + after.clock) / 2, cpu: (before.cpu + after.cpu) / 2 }
          samples[i]!.push({ kernel: spent, peak })
        })
      options.threads.forEach((threads, i) => {
        const taken = samples[i]!
        const seconds = median(taken.map(({ kernel }) => kernel.clock))
        const { flops: peakFlops } = peaks.get(threads)!
        const { flops } = benchCase
        timings.push({
          kernel: kernel.name,
          dims: benchCase.dims,
          threads,
          milliseconds: seconds * 1e3,
          ...(flops
            ? { gflops: flops / seconds / 1e9, ofPeak: ratioOf(taken, flops, peakFlops, 'clock') }
            : { gigabytesPerSecond: bytesOf(kernel, tensors) / seconds / 1e9 }),
          ...(flops && threads === 1 ? { ofPeakByCpu: ratioOf(taken, flops, peakFlops, 'cpu') } : {}),
          peakGflops: peakFlops / median(taken.map(({ peak }) => peak.clock)) / 1e9,
          ...shared,
        })
      })
      for (const tensor of Object.values(tensors)) backend.free(tensor.memory)
    }
  }
  backend.close()
  return timings
}
