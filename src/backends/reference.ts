import { fromBf16, toBf16 } from '../formats/bf16.ts'
import type { Arguments, Backend, Memory } from '../tensor/backend.ts'
import { bind } from '../tensor/bind.ts'
import { dtypes, type TypedArray } from '../tensor/dtype.ts'
import type { Args, Bindings, Kernel, Values } from '../tensor/kernel.ts'
import { Tensor } from '../tensor/tensor.ts'

interface ReferenceMemory extends Memory {
  readonly buffer: ArrayBuffer
}

const bytesOf = (memory: Memory, offset: number, bytes: number): Uint8Array =>
  new Uint8Array((memory as ReferenceMemory).buffer, offset, bytes)

const asBytes = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** The backend that defines all others: memory is ArrayBuffers, a kernel is its own reference. */
export function referenceBackend(): Backend {
  const usage = { bytes: 0, allocations: 0 }
  return {
    name: 'reference',
    description: {},
    activations: 'f32',
    temporaryBytes: 2 ** 21,
    usage,
    alloc(bytes) {
      usage.bytes += bytes
      usage.allocations++
      return { bytes, address: 0n, buffer: new ArrayBuffer(bytes) } as ReferenceMemory
    },
    free(memory) {
      usage.bytes -= memory.bytes
    },
    write(memory, offset, data) {
      bytesOf(memory, offset, data.byteLength).set(asBytes(data))
    },
    read(memory, offset, into) {
      asBytes(into).set(bytesOf(memory, offset, into.byteLength))
    },
    zero(memory, offset, bytes) {
      bytesOf(memory, offset, bytes).fill(0)
    },
    copy(from, fromOffset, to, toOffset, bytes) {
      bytesOf(to, toOffset, bytes).set(bytesOf(from, fromOffset, bytes))
    },
    run<A extends Args>(kernel: Kernel<A>, bindings: Bindings<A>) {
      const given = bindings as Arguments
      const { dims, act } = bind(kernel as unknown as Kernel, given)
      const values: Record<string, unknown> = {}
      const stored: { bits: Uint16Array; decoded: Float32Array }[] = []
      for (const name in kernel.args) {
        const value = given[name]
        if (!(value instanceof Tensor)) {
          values[name] = value
          continue
        }
        const buffer = (value.memory as ReferenceMemory).buffer
        const raw = new dtypes[value.dtype].array(buffer, value.offset, value.size)
        if (value.dtype !== 'bf16') {
          values[name] = raw
          continue
        }
        const arg = kernel.args[name]!
        const decoded = fromBf16(raw as Uint16Array)
        values[name] = decoded
        if (arg.kind === 'tensor' && arg.access !== 'in') stored.push({ bits: raw as Uint16Array, decoded })
      }
      kernel.reference(values as Values<A>, dims, act)
      for (const { bits, decoded } of stored) toBf16(decoded, bits)
    },
    close() {},
  }
}
