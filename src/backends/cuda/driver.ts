import koffi, { type LibraryHandle } from 'koffi'
import { UnavailableError } from '../errors.ts'
import { isFatal, lossError } from './faults.ts'
import { type Found, loadLibrary, type NativeFunction, versionText } from './libraries.ts'

/** The functions of libcuda that the backend uses, with their errors made sentences. Addresses and handles are BigInt. */

const out = () => koffi.out('void *')

const prototypes: Readonly<Record<string, readonly (string | ReturnType<typeof out>)[]>> = {
  cuInit: ['uint32_t'],
  cuDeviceGetCount: [out()],
  cuDeviceGet: [out(), 'int32_t'],
  cuDeviceGetName: [out(), 'int32_t', 'int32_t'],
  cuDeviceGetAttribute: [out(), 'int32_t', 'int32_t'],
  cuDevicePrimaryCtxRetain: [out(), 'int32_t'],
  cuDevicePrimaryCtxRelease_v2: ['int32_t'],
  cuCtxSetCurrent: ['uint64_t'],
  cuStreamCreate: [out(), 'uint32_t'],
  cuStreamDestroy_v2: ['uint64_t'],
  cuStreamSynchronize: ['uint64_t'],
  cuMemGetInfo_v2: [out(), out()],
  cuMemAlloc_v2: [out(), 'uint64_t'],
  cuMemFree_v2: ['uint64_t'],
  cuMemHostAlloc: [out(), 'uint64_t', 'uint32_t'],
  cuMemFreeHost: ['uint64_t'],
  cuMemcpyHtoDAsync_v2: ['uint64_t', 'void *', 'uint64_t', 'uint64_t'],
  cuMemcpyDtoHAsync_v2: [out(), 'uint64_t', 'uint64_t', 'uint64_t'],
  cuMemcpyDtoDAsync_v2: ['uint64_t', 'uint64_t', 'uint64_t', 'uint64_t'],
  cuMemsetD8Async: ['uint64_t', 'uint8_t', 'uint64_t', 'uint64_t'],
  cuEventCreate: [out(), 'uint32_t'],
  cuEventDestroy_v2: ['uint64_t'],
  cuEventRecord: ['uint64_t', 'uint64_t'],
  cuEventSynchronize: ['uint64_t'],
  cuEventElapsedTime: [out(), 'uint64_t', 'uint64_t'],
  cuModuleLoadData: [out(), 'void *'],
  cuModuleUnload: ['uint64_t'],
  cuModuleGetFunction: [out(), 'uint64_t', 'str'],
  cuFuncSetAttribute: ['uint64_t', 'int32_t', 'int32_t'],
  cuStreamBeginCapture_v2: ['uint64_t', 'uint32_t'],
  cuStreamEndCapture: ['uint64_t', out()],
  cuGraphInstantiateWithFlags: [out(), 'uint64_t', 'uint64_t'],
  cuGraphLaunch: ['uint64_t', 'uint64_t'],
  cuGraphDestroy: ['uint64_t'],
  cuGraphExecDestroy: ['uint64_t'],
  cuLaunchKernel: ['uint64_t', ...Array(6).fill('uint32_t'), 'uint32_t', 'uint64_t', 'uint64_t', 'uint64_t'],
}

const attributes = { computeMajor: 75, computeMinor: 76, multiprocessors: 16, sharedMemoryOptin: 97 }
const OUT_OF_MEMORY = 2
const NOT_FOUND = 500
const SHARED_MEMORY_OF_FUNCTION = 8
const BLOCKING_SYNC = 1
const DISABLE_TIMING = 2

/** An error that the driver reported. */
export class DriverError extends Error {
  readonly code: number
  constructor(code: number, message: string) {
    super(message)
    this.code = code
  }
}

export interface Device {
  readonly name: string
  /** 10 * major + minor: 90 on Hopper. */
  readonly capability: number
  readonly multiprocessors: number
  /** Bytes that a block of threads may have. */
  readonly sharedMemory: number
}

const leastDriver = 12_000
const leastCapability = 80

export const driverVersion = (library: LibraryHandle): number => {
  const version = new Int32Array(1)
  library.func('cuDriverGetVersion', 'int32_t', [out()])(version)
  return version[0]!
}

const wordOf = (call: (into: BigUint64Array) => void): bigint => {
  const word = new BigUint64Array(1)
  call(word)
  return word[0]!
}
const intOf = (call: (into: Int32Array) => void): number => {
  const int = new Int32Array(1)
  call(int)
  return int[0]!
}

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20).toLocaleString('en')} MiB`

/** One GPU: its primary context and one stream, on which everything runs in order. */
export class Driver {
  readonly version: number
  readonly path: string
  readonly device: Device
  readonly stream: bigint
  readonly #library: LibraryHandle
  readonly #functions: Readonly<Record<string, NativeFunction>>
  readonly #ordinal: number
  /** What to throw for an error of the driver; whoever knows more of it sets this. */
  explain: (error: DriverError) => Error = error => error
  /** True once a kernel has faulted or the GPU is gone: then not even memory can be freed. */
  failed = false

  /** @throws UnavailableError where there is no driver, no GPU, or one that is too old. */
  constructor(directories: readonly string[]) {
    const found: Found = loadLibrary(
      {
        name: 'cuda',
        purpose: "NVIDIA's driver",
        advice: "install NVIDIA's driver, or use backend=cpu",
        version: driverVersion,
        least: leastDriver,
      },
      // The driver belongs to the system: a stub of the toolkit must not come before it.
      directories.filter(directory => !directory.includes('stubs')),
    )
    this.version = found.version
    this.path = found.path
    this.#library = found.library
    this.#functions = Object.fromEntries(
      Object.entries(prototypes).map(([name, types]) => [name, found.library.func(name, 'int32_t', [...types])]),
    )
    const code: number = this.#functions.cuInit!(0)
    const count = code === 0 ? intOf(n => this.call('cuDeviceGetCount', n)) : 0
    if (count === 0)
      throw new UnavailableError(
        `the driver ${versionText(this.version)} finds no GPU${code === 0 ? '' : ` (${this.#text(code)})`}: use backend=cpu, or see what nvidia-smi says`,
      )
    this.#ordinal = intOf(device => this.call('cuDeviceGet', device, 0))
    const name = new Uint8Array(128)
    this.call('cuDeviceGetName', name, name.length, this.#ordinal)
    this.device = {
      name: Buffer.from(name.subarray(0, name.indexOf(0))).toString(),
      capability: 10 * this.#attribute(attributes.computeMajor) + this.#attribute(attributes.computeMinor),
      multiprocessors: this.#attribute(attributes.multiprocessors),
      sharedMemory: this.#attribute(attributes.sharedMemoryOptin),
    }
    if (this.device.capability < leastCapability)
      throw new UnavailableError(
        `${this.device.name} has compute capability ${this.device.capability / 10}, wanted 8.0 or newer: use backend=cpu`,
      )
    const { name: gpu } = this.device
    this.explain = error =>
      error.code === OUT_OF_MEMORY
        ? new UnavailableError(
            `${gpu} has no memory free for another process (${error.message}): end what else runs on it`,
          )
        : (lossError(error, gpu) ?? error)
    const context = wordOf(into => this.call('cuDevicePrimaryCtxRetain', into, this.#ordinal))
    this.explain = error => lossError(error, gpu) ?? error
    this.call('cuCtxSetCurrent', context)
    this.stream = wordOf(into => this.call('cuStreamCreate', into, 1))
  }

  #attribute(attribute: number): number {
    return intOf(value => this.call('cuDeviceGetAttribute', value, attribute, this.#ordinal))
  }

  #text(code: number): string {
    const describe = (name: string): string => {
      const text = [null as string | null]
      this.#library.func(name, 'int32_t', ['int32_t', koffi.out(koffi.pointer('str'))])(code, text)
      return text[0] ?? `${code}`
    }
    return `${describe('cuGetErrorName')}: ${describe('cuGetErrorString')}`
  }

  #failureOf(name: string, ...given: unknown[]): DriverError | undefined {
    const code: number = this.#functions[name]!(...given)
    if (code === 0) return undefined
    const error = new DriverError(code, `${name} failed with ${this.#text(code)}`)
    this.failed ||= isFatal(error)
    return error
  }

  /** @throws what `explain` makes of a DriverError, unless the function succeeds. */
  call(name: string, ...given: unknown[]): void {
    const error = this.#failureOf(name, ...given)
    if (error) throw this.explain(error)
  }

  memory(): { free: number; total: number } {
    const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)]
    // Not explained: the sentence for memory that is used up asks for this.
    const error = this.#failureOf('cuMemGetInfo_v2', free, total)
    if (error) throw error
    return { free: Number(free[0]), total: Number(total[0]) }
  }

  /** @throws UnavailableError saying how much was asked for, how much is free, and what to change. */
  allocate(bytes: number, held: number): bigint {
    const address = new BigUint64Array(1)
    const error = this.#failureOf('cuMemAlloc_v2', address, BigInt(bytes))
    if (!error) return address[0]!
    throw this.roomError(error, `${mebibytes(bytes)} wanted`, held) ?? this.explain(error)
  }

  /** A sentence for an error of memory that is used up, `what` being what found no room; undefined if the error does not say so. */
  roomError({ code }: DriverError, what: string, held: number): UnavailableError | undefined {
    if (code !== OUT_OF_MEMORY) return undefined
    const { free, total } = this.memory()
    const others = Math.max(0, total - free - held)
    return new UnavailableError(
      `out of GPU memory on ${this.device.name}: ${what}, ${mebibytes(free)} of ${mebibytes(total)} free, ${mebibytes(held)} held by this run, ${mebibytes(others)} by the context and other processes; lower data.micro_batch or data.sequence, set model.recompute=block, or end what else runs on the GPU`,
    )
  }

  free(address: bigint): void {
    this.call('cuMemFree_v2', address)
  }

  synchronize(): void {
    this.call('cuStreamSynchronize', this.stream)
  }

  /**
   * Page-locked host memory.
   * @throws UnavailableError where there is none.
   */
  lockHost(bytes: number): bigint {
    const address = new BigUint64Array(1)
    const error = this.#failureOf('cuMemHostAlloc', address, BigInt(bytes), 0)
    if (!error) return address[0]!
    if (error.code !== OUT_OF_MEMORY) throw this.explain(error)
    throw new UnavailableError(
      `no page-locked memory for copies to and from the GPU: ${mebibytes(bytes)} wanted (${error.message}); free memory of this machine, or raise the limit that ulimit -l shows`,
    )
  }

  /** An event to measure time with, or one that is cheap and lets a waiting processor sleep. */
  event(purpose: 'timing' | 'waiting' = 'timing'): bigint {
    return wordOf(into => this.call('cuEventCreate', into, purpose === 'timing' ? 0 : BLOCKING_SYNC | DISABLE_TIMING))
  }

  /** The graph of what was captured on the stream. */
  endCapture(): bigint {
    return wordOf(graph => this.call('cuStreamEndCapture', this.stream, graph))
  }

  instantiate(graph: bigint): bigint {
    return wordOf(executable => this.call('cuGraphInstantiateWithFlags', executable, graph, 0n))
  }

  /** `what` it is, for messages. */
  loadModule(image: Uint8Array, what: string): bigint {
    const module = new BigUint64Array(1)
    const error = this.#failureOf('cuModuleLoadData', module, image)
    if (!error) return module[0]!
    throw this.explain(isFatal(error) ? error : new DriverError(error.code, `${what}: ${error.message}`))
  }

  /** The entry point, or undefined if the module has none of that name. */
  findFunction(module: bigint, symbol: string): bigint | undefined {
    const fn = new BigUint64Array(1)
    const error = this.#failureOf('cuModuleGetFunction', fn, module, symbol)
    if (!error) return fn[0]!
    if (error.code === NOT_FOUND) return undefined
    throw this.explain(error)
  }

  /** Lets launches of a function ask for that much dynamic shared memory: needed where it and the function's own exceed 48 KB. */
  allowShared(fn: bigint, bytes: number): void {
    this.call('cuFuncSetAttribute', fn, SHARED_MEMORY_OF_FUNCTION, bytes)
  }

  close(): void {
    this.call('cuStreamDestroy_v2', this.stream)
    this.call('cuDevicePrimaryCtxRelease_v2', this.#ordinal)
  }
}
