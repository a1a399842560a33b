import koffi from 'koffi'
import type { Arguments, Backend, Memory } from '../tensor/backend.ts'
import { bind } from '../tensor/bind.ts'
import { slotsOf, symbolOf } from '../tensor/contracts.ts'
import type { Activation } from '../tensor/dtype.ts'
import type { Args, Bindings, Kernel } from '../tensor/kernel.ts'
import { ArgumentBlock } from '../tensor/pack.ts'
import { UnavailableError } from './errors.ts'
import type { Level } from './levels.ts'

interface Loaded {
  readonly block: ArgumentBlock
  /** Return the bytes that they could not have, 0 where they are done. */
  readonly call: Readonly<Record<Activation, (slots: BigUint64Array) => number | bigint>>
}

/**
 * The C++ kernels of a built library (native.ts), run on a pool of `threads` threads of the whole process.
 * @throws UnavailableError if the system does not start so many.
 */
export function cpuBackend(library: string, level: Level, threads: number): Backend {
  const lib = koffi.load(library)
  const allocate = lib.func('void* halfbyte_alloc(int64_t bytes)')
  const release = lib.func('void halfbyte_free(void* data)')
  const copyIn = lib.func('void halfbyte_copy(void* to, const void* from, int64_t bytes)')
  const copyOut = lib.func('halfbyte_copy', 'void', [koffi.out('void*'), 'const void*', 'int64_t'])
  const setZero = lib.func('void halfbyte_zero(void* to, int64_t bytes)')
  const started: number = lib.func('int32_t halfbyte_threads(int32_t threads)')(threads)
  if (started < threads) throw new UnavailableError(`${threads} threads wanted, the system started ${started}`)

  const loaded = new Map<Kernel, Loaded>()
  const load = (kernel: Kernel): Loaded => {
    const find = (act: Activation) => {
      const symbol = symbolOf(kernel, act)
      try {
        return lib.func(`int64_t ${symbol}(void* args)`)
      } catch {
        throw new Error(`the cpu backend has no kernel ${symbol}`)
      }
    }
    const entry = { block: new ArgumentBlock(kernel, slotsOf(kernel)), call: { f32: find('f32'), bf16: find('bf16') } }
    loaded.set(kernel, entry)
    return entry
  }

  const usage = { bytes: 0, allocations: 0 }
  const held = new Set<Memory>()
  return {
    name: 'cpu',
    description: { level: level.name, threads },
    activations: 'f32',
    temporaryBytes: 2 ** 21,
    panelColumns: level.panelColumns,
    usage,
    alloc(bytes) {
      const address: bigint | null = allocate(bytes)
      if (!address) throw new UnavailableError(`out of memory: ${bytes} bytes wanted, ${usage.bytes} in use`)
      usage.bytes += bytes
      usage.allocations++
      const memory = { bytes, address }
      held.add(memory)
      return memory
    },
    free(memory) {
      held.delete(memory)
      usage.bytes -= memory.bytes
      release(memory.address)
    },
    write(memory, offset, data) {
      copyIn(memory.address + BigInt(offset), data, data.byteLength)
    },
    read(memory, offset, into) {
      copyOut(into, memory.address + BigInt(offset), into.byteLength)
    },
    zero(memory, offset, bytes) {
      setZero(memory.address + BigInt(offset), bytes)
    },
    copy(from, fromOffset, to, toOffset, bytes) {
      copyIn(to.address + BigInt(toOffset), from.address + BigInt(fromOffset), bytes)
    },
    run<A extends Args>(kernel: Kernel<A>, bindings: Bindings<A>) {
      const contract = kernel as unknown as Kernel
      const given = bindings as Arguments
      const { dims, act } = bind(contract, given)
      const { block, call } = loaded.get(contract) ?? load(contract)
      const slots = block.fill(given, dims)
      const start = this.profiler && process.hrtime.bigint()
      const missing = call[act](slots)
      if (missing !== 0)
        throw new UnavailableError(`out of memory: ${kernel.name} wanted ${missing} bytes, ${usage.bytes} in use`)
      this.profiler?.(contract, Number(process.hrtime.bigint() - start!) / 1e9, dims, given)
    },
    close() {
      for (const kernel of loaded.keys()) loaded.delete(kernel)
      for (const memory of held) this.free(memory)
    },
  }
}
