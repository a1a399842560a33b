import type { Backend, Memory } from './backend.ts'
import { type DType, dtypes, type TypedArray } from './dtype.ts'

export function sizeOf(shape: readonly number[]): number {
  let size = 1
  for (let i = 0; i < shape.length; i++) size *= shape[i]!
  return size
}

/** A dense row-major array in a backend's memory. Views share memory; nothing is copied until `read` or `write`. */
export class Tensor {
  readonly backend: Backend
  readonly memory: Memory
  /** Where the first element lies, in bytes from the start of `memory`. */
  readonly offset: number
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly size: number

  constructor(backend: Backend, memory: Memory, offset: number, dtype: DType, shape: readonly number[]) {
    this.backend = backend
    this.memory = memory
    this.offset = offset
    this.dtype = dtype
    this.shape = shape
    this.size = sizeOf(shape)
    if (offset + this.bytes > memory.bytes)
      throw new RangeError(
        `tensor ${this.toString()} at byte ${offset} does not fit in a memory of ${memory.bytes} bytes`,
      )
  }

  get bytes(): number {
    return this.size * dtypes[this.dtype].bytes
  }

  /** Of the first element. */
  get address(): bigint {
    return this.offset === 0 ? this.memory.address : this.memory.address + BigInt(this.offset)
  }

  /** The same elements in another shape of equal size. */
  view(shape: readonly number[]): Tensor {
    if (sizeOf(shape) !== this.size) throw new RangeError(`cannot view ${this.toString()} as [${shape.join(', ')}]`)
    return new Tensor(this.backend, this.memory, this.offset, this.dtype, shape)
  }

  /** `shape` elements starting `start` elements into the row-major order. */
  part(start: number, shape: readonly number[]): Tensor {
    if (start < 0 || start + sizeOf(shape) > this.size)
      throw new RangeError(`part [${shape.join(', ')}] at ${start} is outside ${this.toString()}`)
    return new Tensor(this.backend, this.memory, this.offset + start * dtypes[this.dtype].bytes, this.dtype, shape)
  }

  /** Copies raw elements in; BF16 tensors take their bits as a Uint16Array. */
  write(data: TypedArray): this {
    if (!(data instanceof dtypes[this.dtype].array) || data.length !== this.size)
      throw new TypeError(`cannot write ${data.constructor.name}(${data.length}) into ${this.toString()}`)
    this.backend.write(this.memory, this.offset, data)
    return this
  }

  /** Waits for the computation that produces this tensor and copies its raw elements out. */
  read(): TypedArray {
    const data = new dtypes[this.dtype].array(this.size)
    this.backend.read(this.memory, this.offset, data)
    return data
  }

  /** Begins to copy the raw elements out as pending computation leaves them; the function that it returns waits for them. */
  readLater(): () => TypedArray {
    if (!this.backend.readLater) {
      const data = this.read()
      return () => data
    }
    const data = new dtypes[this.dtype].array(this.size)
    const wait = this.backend.readLater(this.memory, this.offset, data)
    return () => {
      wait()
      return data
    }
  }

  /** `read` of an f32 tensor. */
  floats(): Float32Array {
    if (this.dtype !== 'f32') throw new TypeError(`${this.toString()} is not f32`)
    return this.read() as Float32Array
  }

  zero(): this {
    this.backend.zero(this.memory, this.offset, this.bytes)
    return this
  }

  toString(): string {
    return `${this.dtype}[${this.shape.join(', ')}]`
  }
}

/** A tensor of zeros in memory of its own, for what outlives steps; the backend's `close` frees it. */
export const persistentTensor = (backend: Backend, dtype: DType, shape: readonly number[]): Tensor =>
  new Tensor(backend, backend.alloc(Math.max(64, sizeOf(shape) * dtypes[dtype].bytes)), 0, dtype, shape).zero()
