import { closeSync, openSync, readSync } from 'node:fs'
import { UserError } from '../config/errors.ts'
import { type DType, dtypes, type TypedArray } from '../tensor/dtype.ts'
import { openSafetensors } from '../tensor/safetensors.ts'
import { sizeOf, type Tensor } from '../tensor/tensor.ts'
import { storedDtypes } from './checkpoint.ts'
import { pieceBytes } from './files.ts'

/** A tensor to be filled from a checkpoint; `write` takes elements from `start` on. */
export interface RestoredTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  write(start: number, from: TypedArray): void
}

export const toBackend = (name: string, tensor: Tensor): RestoredTensor => ({
  name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  write: (start, from) => tensor.backend.write(tensor.memory, tensor.offset + start * dtypes[tensor.dtype].bytes, from),
})

function readAt(path: string, file: number, into: Uint8Array, position: number): void {
  for (let done = 0; done < into.length; ) {
    const count = readSync(file, into, done, into.length - done, position + done)
    if (count === 0) throw new UserError(`${path} is truncated: it ends at byte ${position + done}`)
    done += count
  }
}

/**
 * Fills tensors from a .safetensors file, at most 64 MiB at a time. The file must hold these tensors and no others; all is checked
 * before the first is written.
 * @param progress told how many bytes of how many are restored.
 * @throws UserError naming the tensor that is missing, of another shape or not wanted.
 */
export function restoreTensors(
  path: string,
  targets: Iterable<RestoredTensor>,
  progress: (done: number, total: number) => void = () => {},
): void {
  const wanted = [...targets]
  const header = openSafetensors(path)
  header.close()
  const unwanted = new Set(header.tensors.keys())
  for (const { name, dtype, shape } of wanted) {
    const entry = header.tensors.get(name)
    const want = `${storedDtypes[dtype]}[${shape.join(', ')}]`
    if (!entry) throw new UserError(`${path} has no tensor ${name}, wanted ${want}`)
    const found = `${entry.dtype}[${entry.shape.join(', ')}]`
    if (found !== want) throw new UserError(`${path}: tensor ${name}: found ${found}, wanted ${want}`)
    unwanted.delete(name)
  }
  for (const name of unwanted) throw new UserError(`${path} has a tensor ${name} that the model does not have`)
  const sizes = wanted.map(({ dtype, shape }) => sizeOf(shape) * dtypes[dtype].bytes)
  const largest = Math.max(0, ...sizes)
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0)
  let done = 0
  const buffer = new ArrayBuffer(Math.min(pieceBytes, Math.ceil(largest / 64) * 64))
  const file = openSync(path, 'r')
  try {
    for (const target of wanted) {
      const { array, bytes } = dtypes[target.dtype]
      const first = header.dataStart + header.tensors.get(target.name)!.start
      const size = sizeOf(target.shape)
      const most = buffer.byteLength / bytes
      for (let start = 0; start < size; start += most) {
        const length = Math.min(most, size - start)
        readAt(path, file, new Uint8Array(buffer, 0, length * bytes), first + start * bytes)
        target.write(start, new array(buffer, 0, length))
        progress((done += length * bytes), total)
      }
    }
  } finally {
    closeSync(file)
  }
}
