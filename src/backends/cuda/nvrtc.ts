import { dirname } from 'node:path'
import koffi, { type LibraryHandle } from 'koffi'
import type { Activation } from '../../tensor/dtype.ts'
import { type Found, libraryFiles, loadLibrary, type NativeFunction } from './libraries.ts'

/** NVIDIA's run-time compiler: CUDA C++ in memory to machine code in memory. It needs no GPU. */

const out = () => koffi.out('void *')

const prototypes: Readonly<Record<string, readonly (string | ReturnType<typeof out>)[]>> = {
  nvrtcCreateProgram: [out(), 'str', 'str', 'int32_t', 'const char **', 'const char **'],
  nvrtcCompileProgram: ['uint64_t', 'int32_t', 'const char **'],
  nvrtcDestroyProgram: ['void *'],
  nvrtcGetProgramLogSize: ['uint64_t', out()],
  nvrtcGetProgramLog: ['uint64_t', out()],
  nvrtcGetCUBINSize: ['uint64_t', out()],
  nvrtcGetCUBIN: ['uint64_t', out()],
}

/**
 * Each operation is one IEEE operation: no contraction, no flush to zero, true division and square root. A kernel that wants an FMA
 * writes it.
 */
export const compileOptions = (architecture: string, act: Activation): string[] => [
  `--gpu-architecture=${architecture}`,
  // Kernels of the other dtype of activations are left out: half the time.
  `--define-macro=ONLY_${act.toUpperCase()}`,
  '--std=c++17',
  // As nvcc does with lambdas that take `auto`.
  '--device-as-default-execution-space',
  '--fmad=false',
  '--ftz=false',
  '--prec-div=true',
  '--prec-sqrt=true',
]

/** `sm_90a` for 90: the target with the features of that architecture alone. */
export const architectureOf = (capability: number): string => `sm_${capability}${capability >= 90 ? 'a' : ''}`

export const nvrtcVersion = (library: LibraryHandle): number => {
  const [major, minor] = [new Int32Array(1), new Int32Array(1)]
  library.func('nvrtcVersion', 'int32_t', [out(), out()])(major, minor)
  return major[0]! * 1000 + minor[0]! * 10
}

/** Architectures that a library compiles for, as capabilities. */
function architecturesOf(library: LibraryHandle): number[] {
  const count = new Int32Array(1)
  library.func('nvrtcGetNumSupportedArchs', 'int32_t', [out()])(count)
  const list = new Int32Array(count[0]!)
  library.func('nvrtcGetSupportedArchs', 'int32_t', [out()])(list)
  return [...list]
}

export interface Source {
  /** Shown in messages. */
  readonly name: string
  readonly text: string
  /** What `#include` finds, by name. */
  readonly headers: ReadonlyMap<string, string>
}

export class Nvrtc {
  readonly version: number
  readonly path: string
  readonly #functions: Readonly<Record<string, NativeFunction>>
  readonly #describe: (code: number) => string

  /**
   * @param driverMajor machine code must not be newer than the driver.
   * @param capability of the GPU, which the library must know.
   * @throws UnavailableError naming the version found and wanted.
   */
  constructor(directories: readonly string[], driverMajor?: number, capability?: number) {
    const found: Found = loadLibrary(
      {
        name: 'nvrtc',
        purpose: "CUDA's run-time compiler",
        advice: `pip install nvidia-cuda-nvrtc${driverMajor === 12 ? '-cu12' : ''}, or install the CUDA toolkit`,
        version: nvrtcVersion,
        least: 12_000,
        ...(driverMajor === undefined ? {} : { newestMajor: driverMajor }),
        lacks: library =>
          capability === undefined || architecturesOf(library).includes(capability)
            ? undefined
            : `knows no sm_${capability}, this GPU's architecture`,
      },
      directories,
    )
    this.version = found.version
    this.path = found.path
    // NVRTC opens this one by its bare name, which finds it in a wheel only if it is loaded already.
    for (const builtins of libraryFiles('nvrtc-builtins', [dirname(found.path)])) koffi.load(builtins)
    this.#functions = Object.fromEntries(
      Object.entries(prototypes).map(([name, types]) => [name, found.library.func(name, 'int32_t', [...types])]),
    )
    this.#describe = found.library.func('nvrtcGetErrorString', 'str', ['int32_t'])
  }

  #call(name: string, ...given: unknown[]): void {
    const code: number = this.#functions[name]!(...given)
    if (code !== 0) throw new Error(`${name} failed with ${this.#describe(code)}`)
  }

  #bytes(program: bigint, part: 'ProgramLog' | 'CUBIN'): Uint8Array {
    const size = new BigUint64Array(1)
    this.#call(`nvrtcGet${part}Size`, program, size)
    const bytes = new Uint8Array(Number(size[0]))
    this.#call(`nvrtcGet${part}`, program, bytes)
    return bytes
  }

  /** @throws Error with the compiler's messages. */
  compile({ name, text, headers }: Source, options: readonly string[]): Uint8Array {
    const handle = new BigUint64Array(1)
    this.#call('nvrtcCreateProgram', handle, text, name, headers.size, [...headers.values()], [...headers.keys()])
    const program = handle[0]!
    try {
      const code: number = this.#functions.nvrtcCompileProgram!(program, options.length, [...options])
      if (code !== 0) {
        const log = Buffer.from(this.#bytes(program, 'ProgramLog')).toString().replace(/\0.*$/s, '')
        throw new Error(`${name} does not compile for ${options[0]} (${this.#describe(code)}):\n${log.slice(0, 4000)}`)
      }
      return this.#bytes(program, 'CUBIN')
    } finally {
      this.#call('nvrtcDestroyProgram', handle)
    }
  }
}
