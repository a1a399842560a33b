import koffi from 'koffi'
import type { Arguments, Backend, Memory } from '../../tensor/backend.ts'
import { bind } from '../../tensor/bind.ts'
import { slotsOf, symbolOf } from '../../tensor/contracts.ts'
import type { CudaCall, Extent, Launch, Product, Scalars } from '../../tensor/cuda.ts'
import type { Activation, DType } from '../../tensor/dtype.ts'
import type { Args, Bindings, Dims, Kernel } from '../../tensor/kernel.ts'
import { ArgumentBlock } from '../../tensor/pack.ts'
import { RouteCounter, type Routes } from '../../tensor/routes.ts'
import { Tensor } from '../../tensor/tensor.ts'
import { UnavailableError } from '../errors.ts'
import { type CublasLt, type ProductShape, productWorkspace } from './cublaslt.ts'
import type { Driver } from './driver.ts'
import { faultError, lossError } from './faults.ts'
import { Graphs, type Launched } from './graphs.ts'
import { versionText } from './libraries.ts'
import type { Modules } from './modules.ts'
import type { Nvrtc } from './nvrtc.ts'
import { Staging } from './staging.ts'

/** What the backend is made of; src/backends/open.ts puts it together. */
export interface CudaParts {
  readonly driver: Driver
  readonly nvrtc: Nvrtc
  readonly cublasLt: CublasLt
  readonly modules: Modules
  /** Whether steps are recorded and replayed; they compute the same. */
  readonly graphs: boolean
}

interface Loaded {
  readonly block: ArgumentBlock
  readonly scalars: readonly string[]
  /** By dtype of activations and entry. */
  readonly functions: Map<string, { fn: bigint; shared: number }>
}

/** Threads and elements of a block where the contract names no launches; kernels are then right for any. */
const defaultThreads = 256
const defaultElements = 2048
const mostDefaultBlocks = 4096
/** The workspace grows by whole pages of the device. */
const workspaceStep = 2 ** 21

const extents = (extent: Extent): readonly [number, number, number] =>
  typeof extent === 'number' ? [extent, 1, 1] : [extent[0], extent[1] ?? 1, extent[2] ?? 1]

function defaultLaunches(given: Arguments): readonly Launch[] {
  let elements = 1
  for (const name in given) {
    const value = given[name]
    if (value instanceof Tensor) elements = Math.max(elements, value.size)
  }
  return [{ grid: Math.min(Math.ceil(elements / defaultElements), mostDefaultBlocks), block: defaultThreads }]
}

const productName = ({ name }: Kernel, dims: Dims): string =>
  [name, ...Object.entries(dims).map(([dim, size]) => `${dim}=${size}`)].join(' ')

/** One GPU driven through its libraries. Everything runs in order on one stream; only reads wait. */
export class CudaBackend implements Backend {
  readonly name = 'cuda'
  readonly description: Readonly<Record<string, string | number>>
  readonly activations: Activation = 'bf16'
  readonly temporaryBytes = 2 ** 29
  readonly usage = { bytes: 0, allocations: 0 }
  profiler?: Backend['profiler']
  readonly #parts: CudaParts
  readonly #loaded = new Map<Kernel, Loaded>()
  readonly #held = new Set<Memory>()
  /** Kernels since the last wait, and those of graphs: a fault shows only there. */
  readonly #pending = new Set<string>()
  readonly #replayed = new Set<string>()
  readonly #routes = new RouteCounter()
  readonly #graphs: Graphs
  readonly #staging: Staging
  /** Arguments of one launch and the two pointers to them, at addresses that do not change. */
  readonly #parameters: BigUint64Array
  readonly #parameterList: bigint
  /** f32 0 and 1 in device memory, where cuBLASLt reads its factors. */
  readonly #factors: Memory
  #workspace: Memory | undefined
  #productWorkspace: Memory | undefined
  /** Events before and after a kernel that is watched. */
  #timers: readonly [bigint, bigint] | undefined

  constructor(parts: CudaParts) {
    const { driver, nvrtc, cublasLt } = parts
    this.#parts = parts
    driver.explain = error =>
      lossError(error, driver.device.name) ??
      driver.roomError(error, error.message, this.usage.bytes) ??
      faultError(error, [...this.#pending, ...this.#replayed])
    this.#graphs = new Graphs(driver)
    this.#staging = new Staging(driver)
    this.description = {
      device: driver.device.name,
      capability: driver.device.capability / 10,
      driver: versionText(driver.version),
      nvrtc: versionText(nvrtc.version),
      cublasLt: versionText(cublasLt.version),
    }
    const slots = 512
    const parameters = koffi.alloc('uint64_t', slots)
    const list = koffi.alloc('uint64_t', 2)
    const address = koffi.address(parameters)
    this.#parameters = new BigUint64Array(koffi.view(parameters, slots * 8))
    new BigUint64Array(koffi.view(list, 16)).set([address, address + BigInt((slots - 1) * 8)])
    this.#parameterList = koffi.address(list)
    this.#factors = this.alloc(64)
    this.write(this.#factors, 0, Float32Array.of(0, 1))
  }

  alloc(bytes: number): Memory {
    const address = this.#parts.driver.allocate(bytes, this.usage.bytes)
    this.usage.bytes += bytes
    this.usage.allocations++
    const memory = { bytes, address }
    this.#held.add(memory)
    return memory
  }

  free(memory: Memory): void {
    this.#graphs.forget(memory)
    this.#held.delete(memory)
    this.usage.bytes -= memory.bytes
    this.#parts.driver.free(memory.address)
  }

  write(memory: Memory, offset: number, data: ArrayBufferView): void {
    const { driver } = this.#parts
    if (data.byteLength === 0) return
    this.#notRecording('write')
    const to = memory.address + BigInt(offset)
    if (this.#staging.write(to, data)) return
    driver.call('cuMemcpyHtoDAsync_v2', to, data, BigInt(data.byteLength), driver.stream)
    // A GPU that reads ordinary memory itself may read it after the call: the caller may change it then.
    this.#wait()
  }

  read(memory: Memory, offset: number, into: ArrayBufferView): void {
    const { driver } = this.#parts
    if (into.byteLength === 0) return
    this.#notRecording('read')
    this.#wait()
    const from = memory.address + BigInt(offset)
    driver.call('cuMemcpyDtoHAsync_v2', into, from, BigInt(into.byteLength), driver.stream)
    this.#wait()
  }

  readLater(memory: Memory, offset: number, into: ArrayBufferView): () => void {
    this.#notRecording('read')
    return this.#staging.read(memory.address + BigInt(offset), into)
  }

  zero(memory: Memory, offset: number, bytes: number): void {
    const { driver } = this.#parts
    this.#graphs.recording?.memories.add(memory)
    if (bytes > 0) driver.call('cuMemsetD8Async', memory.address + BigInt(offset), 0, BigInt(bytes), driver.stream)
  }

  copy(from: Memory, fromOffset: number, to: Memory, toOffset: number, bytes: number): void {
    const { driver } = this.#parts
    if (bytes === 0) return
    this.#graphs.recording?.memories.add(from).add(to)
    const source = from.address + BigInt(fromOffset)
    driver.call('cuMemcpyDtoDAsync_v2', to.address + BigInt(toOffset), source, BigInt(bytes), driver.stream)
  }

  capture(key: string, body: () => void): void {
    if (this.profiler || !this.#parts.graphs) {
      body()
      return
    }
    const replayed = this.#graphs.run(key, body)
    if (!replayed) return
    for (const kernel of replayed.kernels) this.#replayed.add(kernel)
    this.#routes.add(replayed.routes)
  }

  takeRoutes(): Routes {
    return this.#routes.take()
  }

  #notRecording(what: string): void {
    if (this.#graphs.recording) throw new Error(`a recorded step cannot ${what} host memory`)
  }

  run<A extends Args>(kernel: Kernel<A>, bindings: Bindings<A>): void {
    const contract = kernel as unknown as Kernel
    const given = bindings as Arguments
    const { dims, act } = bind(contract, given)
    if (!this.profiler) {
      this.#launch(contract, given, dims, act)
      return
    }
    const { driver } = this.#parts
    this.#timers ??= [driver.event(), driver.event()]
    const [start, end] = this.#timers
    driver.call('cuEventRecord', start, driver.stream)
    this.#launch(contract, given, dims, act)
    driver.call('cuEventRecord', end, driver.stream)
    this.#wait()
    const milliseconds = new Float32Array(1)
    driver.call('cuEventElapsedTime', milliseconds, start, end)
    this.profiler(contract, milliseconds[0]! / 1000, dims, given)
  }

  close(): void {
    const { driver, cublasLt, modules } = this.#parts
    if (driver.failed) return
    this.#wait()
    this.#graphs.close()
    this.#staging.close()
    for (const event of this.#timers ?? []) driver.call('cuEventDestroy_v2', event)
    for (const memory of this.#held) this.free(memory)
    this.#loaded.clear()
    modules.close()
    cublasLt.close()
    driver.close()
  }

  #wait(): void {
    this.#parts.driver.synchronize()
    this.#pending.clear()
    this.#replayed.clear()
  }

  #load(kernel: Kernel): Loaded {
    const scalars = Object.keys(kernel.args).filter(name => kernel.args[name]!.kind === 'scalar')
    const loaded = { block: new ArgumentBlock(kernel, slotsOf(kernel)), scalars, functions: new Map() }
    this.#loaded.set(kernel, loaded)
    return loaded
  }

  /** The workspace of a call, from the start of the one buffer that all calls share in turn. */
  #workspaceOf(bytes: number): bigint {
    if (!this.#workspace || this.#workspace.bytes < bytes) {
      if (this.#workspace) {
        this.#wait()
        this.free(this.#workspace)
      }
      this.#workspace = undefined
      this.#workspace = this.alloc(Math.ceil(bytes / workspaceStep) * workspaceStep)
    }
    return this.#workspace.address
  }

  #launch(kernel: Kernel, given: Arguments, dims: Dims, act: Activation): void {
    const loaded = this.#loaded.get(kernel) ?? this.#load(kernel)
    const slots = loaded.block.fill(given, dims)
    this.#parameters.set(slots)
    const { recording } = this.#graphs
    if (recording) touch(recording, given)
    let launches: readonly (Launch | Product)[]
    let workspace = 0n
    if (kernel.cuda) {
      const scalars: Record<string, number> = {}
      for (const name of loaded.scalars) scalars[name] = given[name] as number
      const offers = (product: Product) => this.#parts.cublasLt.offers(shapeOf(product))
      const call = { act, dtypes: dtypesOf(given), device: this.#parts.driver.device, offers }
      launches = kernel.cuda.launches(dims, scalars as Scalars, call)
      const bytes = kernel.cuda.workspace?.(dims, scalars as Scalars, call) ?? 0
      if (bytes > 0) workspace = this.#workspaceOf(bytes)
    } else launches = defaultLaunches(given)
    if (workspace) recording?.memories.add(this.#workspace!)
    this.#parameters[this.#parameters.length - 1] = workspace
    const served: string[] = []
    for (const launch of launches)
      if ('grid' in launch) {
        this.#start(kernel, loaded, act, launch)
        served.push(launch.entry ? `${kernel.name}_${launch.entry}` : kernel.name)
      } else served.push(this.#multiply(launch, given, workspace, productName(kernel, dims)))
    const kernels = recording?.kernels ?? this.#pending
    kernels.add(kernel.name)
    if (kernel.flops) (recording?.routes ?? this.#routes).count(productName(kernel, dims), served.join('; '))
  }

  #start(kernel: Kernel, loaded: Loaded, act: Activation, { entry = '', grid, block, shared = 0 }: Launch): void {
    const { driver, modules } = this.#parts
    const key = `${act} ${entry}`
    let known = loaded.functions.get(key)
    if (!known) {
      known = { fn: modules.find(kernel.name, symbolOf(kernel, act), entry, act), shared: 0 }
      loaded.functions.set(key, known)
    }
    const { name: gpu, sharedMemory } = driver.device
    if (shared > sharedMemory) {
      const kibibytes = (bytes: number) => `${Math.ceil(bytes / 1024)} KiB`
      throw new UnavailableError(
        `kernel ${kernel.name} needs ${kibibytes(shared)} of shared memory in a block of threads, ${gpu} has ${kibibytes(sharedMemory)}: set model.activations=${act === 'f32' ? 'bf16' : 'f32'}, or smaller heads or states`,
      )
    }
    const blocks = extents(grid)
    if (blocks.includes(0)) return
    try {
      if (shared > known.shared) {
        driver.allowShared(known.fn, shared)
        known.shared = shared
      }
      driver.call(
        'cuLaunchKernel',
        known.fn,
        ...blocks,
        ...extents(block),
        shared,
        driver.stream,
        this.#parameterList,
        0n,
      )
    } catch (error) {
      // After a fault it is an earlier kernel that is to blame.
      if (driver.failed || error instanceof UnavailableError) throw error
      throw new Error(`kernel ${kernel.name}, launch of ${blocks.join(' x ')} blocks: ${(error as Error).message}`)
    }
  }

  /** Returns what served the product; `name` is for messages. */
  #multiply(product: Product, given: Arguments, workspace: bigint, name: string): string {
    const { driver, cublasLt } = this.#parts
    const addressOf = ({ at }: { readonly at: string | number }): bigint => {
      if (typeof at === 'number') return workspace + BigInt(at)
      const tensor = given[at] as Tensor
      return tensor.memory.address + BigInt(tensor.offset)
    }
    const { m, n, a, b, c, alpha, accumulate, batch = 1 } = product
    if (m === 0 || n === 0 || batch === 0) return 'nothing'
    this.#productWorkspace ??= this.alloc(productWorkspace)
    const { address: zero } = this.#factors
    const one = zero + 4n
    const at = {
      a: addressOf(a),
      b: addressOf(b),
      c: addressOf(c),
      alpha: alpha === undefined ? one : workspace + BigInt(alpha),
      beta: accumulate ? one : zero,
      workspace: this.#productWorkspace.address,
      ...('scales' in a && 'scales' in b ? { scales: { a: addressOf(a.scales), b: addressOf(b.scales) } } : {}),
    }
    try {
      return cublasLt.multiply(shapeOf(product), at, driver.stream)
    } catch (error) {
      // What faulted before shows in the library as an error of its own.
      if (!this.#graphs.recording) this.#wait()
      throw new Error(`${name}: ${(error as Error).message}`)
    }
  }
}

const shapeOf = ({ m, n, k, a, b, c, batch = 1 }: Product): ProductShape => ({
  m,
  n,
  k,
  operands: a.dtype,
  result: c.dtype,
  transposeA: a.transposed,
  transposeB: b.transposed,
  batch,
  ...('scales' in a && 'scales' in b ? { scales: { a: a.scales.layout, b: b.scales.layout } } : {}),
})

function touch({ memories }: Launched, given: Arguments): void {
  for (const name in given) {
    const value = given[name]
    if (value instanceof Tensor) memories.add(value.memory)
  }
}

function dtypesOf(given: Arguments): CudaCall['dtypes'] {
  const dtypes: Record<string, DType | undefined> = {}
  for (const name in given) {
    const value = given[name]
    if (value instanceof Tensor) dtypes[name] = value.dtype
  }
  return dtypes
}
