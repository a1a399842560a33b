import { fromBf16, toBf16 } from '../src/formats/bf16.ts'
import { Stream } from '../src/formats/philox.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { evaluateWord } from '../src/tensor/bind.ts'
import { type Activation, type DType, dtypes, type TypedArray } from '../src/tensor/dtype.ts'
import type { Case, Kernel, TensorArg } from '../src/tensor/kernel.ts'
import { sizeOf, Tensor } from '../src/tensor/tensor.ts'

/** The dtypes in which a case can run: both activation dtypes where the contract leaves one open. */
export const variantsOf = (kernel: Kernel): Activation[] =>
  Object.values(kernel.args).some(arg => arg.kind === 'tensor' && (arg.dtype === 'act' || arg.dtype === 'float'))
    ? ['f32', 'bf16']
    : ['f32']

const concrete = (dtype: TensorArg['dtype'], act: Activation): DType =>
  dtype === 'act' || dtype === 'float' ? act : dtype

function randomArray(dtype: DType, size: number, random: Stream): TypedArray {
  const array = new dtypes[dtype].array(size)
  if (dtype === 'u8') for (let i = 0; i < size; i++) array[i] = random.word()
  else if (dtype === 'f32') for (let i = 0; i < size; i++) array[i] = random.normal()
  else if (dtype === 'bf16') return toBf16(Float32Array.from({ length: size }, () => random.normal()))
  return array
}

/** Raw bytes of every tensor argument of a case, the same on every backend; outputs are poisoned with NaN or 0xA5. */
export function caseArrays(kernel: Kernel, testCase: Case, act: Activation): Map<string, TypedArray> {
  const random = new Stream(1, kernel.cases.indexOf(testCase))
  const special = testCase.inputs?.(testCase.dims) ?? {}
  const arrays = new Map<string, TypedArray>()
  for (const [name, arg] of Object.entries(kernel.args)) {
    if (arg.kind === 'scalar' || (arg.optional && !testCase.with?.includes(name))) continue
    const dtype = concrete(arg.dtype, act)
    const shape = arg.shape.map(word => evaluateWord(word, testCase.dims)!)
    const given = special[name] as TypedArray | undefined
    let array: TypedArray
    if (given) array = dtype === 'bf16' ? toBf16(given as Float32Array) : given.slice()
    else array = randomArray(dtype, sizeOf(shape), random)
    if (array.length !== sizeOf(shape))
      throw new Error(
        `${kernel.name}: case input ${name} has ${array.length} elements, the contract wants ${sizeOf(shape)}`,
      )
    if (arg.access === 'out') new Uint8Array(array.buffer).fill(dtype === 'f32' || dtype === 'bf16' ? 0xff : 0xa5)
    arrays.set(name, array)
  }
  return arrays
}

/** Runs a case on a backend; returns the raw arrays of everything that the kernel writes. */
export function runCase(
  backend: Backend,
  kernel: Kernel,
  testCase: Case,
  act: Activation,
  arrays = caseArrays(kernel, testCase, act),
): Map<string, TypedArray> {
  const tensors = new Map<string, Tensor>()
  for (const [name, array] of arrays) {
    const arg = kernel.args[name] as TensorArg
    const shape = arg.shape.map(word => evaluateWord(word, testCase.dims)!)
    const memory = backend.alloc(Math.max(64, array.byteLength))
    tensors.set(name, new Tensor(backend, memory, 0, concrete(arg.dtype, act), shape).write(array))
  }
  try {
    backend.run(kernel, { ...testCase.scalars, ...Object.fromEntries(tensors) } as never)
    const written = [...tensors].filter(([name]) => (kernel.args[name] as TensorArg).access !== 'in')
    return new Map(written.map(([name, tensor]) => [name, tensor.read()]))
  } finally {
    for (const tensor of tensors.values()) backend.free(tensor.memory)
  }
}

/** The largest difference, relative to the largest magnitude wanted; Infinity where either is not finite and they differ. */
export function difference(got: TypedArray, want: TypedArray): number {
  const a = got instanceof Uint16Array ? fromBf16(got) : got
  const b = want instanceof Uint16Array ? fromBf16(want) : want
  let largest = 0
  let worst = 0
  for (let i = 0; i < a.length; i++) {
    const x = a[i]!
    const y = b[i]!
    if (Object.is(x, y) || x === y) continue
    const error = Math.abs(x - y)
    worst = Number.isFinite(error) ? Math.max(worst, error) : Number.POSITIVE_INFINITY
  }
  for (const y of b) if (Number.isFinite(y)) largest = Math.max(largest, Math.abs(y))
  return worst === 0 ? 0 : worst / (largest || 1)
}

/** The last place of BF16 in the largest magnitude, as a share of it: what two sums on either side of a rounding differ by. */
function lastPlace(bits: Uint16Array): number {
  const largest = fromBf16(bits).reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0)
  return largest > 0 ? 2 ** (Math.floor(Math.log2(largest)) - 7) / largest : 0
}

/** How far an output may be from the reference: nothing for integers, the contract's tolerance and the rounding of BF16 else. */
export function allowed(kernel: Kernel, name: string, array: TypedArray): number {
  const tolerance = typeof kernel.tolerance === 'number' ? kernel.tolerance : (kernel.tolerance[name] ?? 0)
  if (array instanceof Float32Array) return tolerance
  return array instanceof Uint16Array && tolerance > 0 ? tolerance + lastPlace(array) : 0
}
