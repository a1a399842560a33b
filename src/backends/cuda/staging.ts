import koffi from 'koffi'
import type { Driver } from './driver.ts'

/**
 * Page-locked host memory between JavaScript and the device: copies through it return at once, in both directions, where those of ordinary
 * memory wait for all pending work.
 */

interface Locked {
  readonly address: bigint
  readonly bytes: Uint8Array
  /** Recorded after the copy that reads or writes it. */
  readonly event: bigint
}

/** Room for writes that are under way. */
const writeBytes = 2 ** 22

const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

export class Staging {
  readonly #driver: Driver
  readonly #all: Locked[] = []
  /** Two halves of the room for writes, filled in turn; each is waited for before it is filled again. */
  readonly #halves: Locked[] = []
  #half = 0
  #filled = 0
  /** Buffers of reads that nobody waits for any more, by size. */
  readonly #spare = new Map<number, Locked[]>()

  constructor(driver: Driver) {
    this.#driver = driver
  }

  #lock(size: number): Locked {
    const address = this.#driver.lockHost(size)
    const locked = { address, bytes: new Uint8Array(koffi.view(address, size)), event: this.#driver.event('waiting') }
    this.#all.push(locked)
    return locked
  }

  /** Copies to the device; returns false where there is too much for the room. */
  write(to: bigint, data: ArrayBufferView): boolean {
    const { byteLength } = data
    const capacity = writeBytes / 2
    if (byteLength > capacity) return false
    const driver = this.#driver
    if (this.#halves.length === 0) this.#halves.push(this.#lock(capacity), this.#lock(capacity))
    if (this.#filled + byteLength > capacity) {
      driver.call('cuEventRecord', this.#halves[this.#half]!.event, driver.stream)
      this.#half = 1 - this.#half
      this.#filled = 0
      driver.call('cuEventSynchronize', this.#halves[this.#half]!.event)
    }
    const { bytes, address } = this.#halves[this.#half]!
    bytes.set(bytesOf(data), this.#filled)
    driver.call('cuMemcpyHtoDAsync_v2', to, address + BigInt(this.#filled), BigInt(byteLength), driver.stream)
    this.#filled += Math.ceil(byteLength / 64) * 64
    return true
  }

  /** Begins a copy from the device; the function that it returns waits for it and fills `into`. */
  read(from: bigint, into: ArrayBufferView): () => void {
    const driver = this.#driver
    const { byteLength } = into
    const locked = this.#spare.get(byteLength)?.pop() ?? this.#lock(byteLength)
    driver.call('cuMemcpyDtoHAsync_v2', locked.address, from, BigInt(byteLength), driver.stream)
    driver.call('cuEventRecord', locked.event, driver.stream)
    return () => {
      driver.call('cuEventSynchronize', locked.event)
      bytesOf(into).set(locked.bytes)
      const spare = this.#spare.get(byteLength)
      if (spare) spare.push(locked)
      else this.#spare.set(byteLength, [locked])
    }
  }

  close(): void {
    for (const { address, event } of this.#all) {
      this.#driver.call('cuEventDestroy_v2', event)
      this.#driver.call('cuMemFreeHost', address)
    }
  }
}
