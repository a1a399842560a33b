import type { Activation, DType } from './dtype.ts'
import type { Args, Dims, Kernel, TensorArg } from './kernel.ts'
import { Tensor } from './tensor.ts'

export interface Bound {
  dims: Dims
  /** Dtype that the `act` arguments of this call share; f32 where the kernel has none. */
  act: Activation
}

/** A word of a shape: `cols` is times 1 over 1, `2*cols` times 2, `cols/16` over 16; a number has no name. */
interface Word {
  readonly name: string | undefined
  readonly times: number
  readonly over: number
}

function parseWord(word: string | number): Word {
  if (typeof word === 'number') return { name: undefined, times: word, over: 1 }
  const [, times, name, over] = /^(?:(\d+)\*)?(\w+)(?:\/(\d+))?$/.exec(word) ?? []
  if (name === undefined) throw new Error(`"${word}" is not a word of a shape; write cols, 2*cols or cols/16`)
  return { name, times: Number(times ?? 1), over: Number(over ?? 1) }
}

const wordValue = ({ name, times, over }: Word, dims: Dims): number | undefined => {
  if (name === undefined) return times
  const dim = dims[name]
  return dim === undefined ? undefined : (dim * times) / over
}

/** What a shape's word is worth; undefined while its dimension is unknown. */
export const evaluateWord = (word: string | number, dims: Dims): number | undefined => wordValue(parseWord(word), dims)

/** Names of all dimensions of a kernel, in order of first appearance: the order of the int64 arguments of native code. */
export function dimNames(args: Args): string[] {
  const names = new Set<string>()
  for (const arg of Object.values(args))
    if (arg.kind === 'tensor')
      for (const word of arg.shape) {
        const { name } = parseWord(word)
        if (name !== undefined) names.add(name)
      }
  return [...names]
}

/** A word in the form in which calls are checked: its dimension's number, or -1 for a number. */
interface WordCheck {
  readonly dim: number
  readonly times: number
  readonly over: number
}

interface TensorCheck {
  readonly name: string
  readonly arg: TensorArg
  readonly words: readonly WordCheck[]
}

/** A contract in the form in which calls are checked; made once for each kernel, because a step calls hundreds. */
interface Plan {
  readonly names: ReadonlySet<string>
  readonly scalars: readonly string[]
  readonly tensors: readonly TensorCheck[]
  readonly dims: readonly string[]
  /** Of the call that is being checked; NaN while unknown. */
  readonly values: Float64Array
}

const plans = new WeakMap<Kernel, Plan>()

function planOf(kernel: Kernel): Plan {
  const known = plans.get(kernel)
  if (known) return known
  const dims = dimNames(kernel.args)
  const scalars: string[] = []
  const tensors: TensorCheck[] = []
  for (const [name, arg] of Object.entries(kernel.args)) {
    if (arg.kind === 'scalar') {
      scalars.push(name)
      continue
    }
    const words = arg.shape.map(parseWord).map(({ name: dim, times, over }) => ({
      dim: dim === undefined ? -1 : dims.indexOf(dim),
      times,
      over,
    }))
    tensors.push({ name, arg, words })
  }
  const values = new Float64Array(dims.length)
  const plan = { names: new Set(Object.keys(kernel.args)), scalars, tensors, dims, values }
  plans.set(kernel, plan)
  return plan
}

const accepts: Readonly<Record<TensorArg['dtype'], (dtype: DType, act: Activation | undefined) => boolean>> = {
  act: (dtype, act) => dtype === act,
  float: dtype => dtype === 'f32' || dtype === 'bf16',
  f32: dtype => dtype === 'f32',
  bf16: dtype => dtype === 'bf16',
  u8: dtype => dtype === 'u8',
  i32: dtype => dtype === 'i32',
  u32: dtype => dtype === 'u32',
}

/** Takes the sizes of dimensions that are words of their own and not known yet. */
function learn(words: readonly WordCheck[], shape: readonly number[], values: Float64Array): void {
  for (let axis = 0; axis < words.length && axis < shape.length; axis++) {
    const { dim, times, over } = words[axis]!
    if (dim >= 0 && times === 1 && over === 1 && Number.isNaN(values[dim])) values[dim] = shape[axis]!
  }
}

function fits(words: readonly WordCheck[], shape: readonly number[], values: Float64Array): boolean {
  if (words.length !== shape.length) return false
  for (let axis = 0; axis < words.length; axis++) {
    const { dim, times, over } = words[axis]!
    if ((dim < 0 ? times : (values[dim]! * times) / over) !== shape[axis]) return false
  }
  return true
}

function dimsOf({ dims: names, values }: Plan): Dims {
  const dims: Dims = {}
  for (let i = 0; i < names.length; i++) if (!Number.isNaN(values[i])) dims[names[i]!] = values[i]!
  return dims
}

const show = (arg: TensorArg, dims: Dims): string =>
  `${arg.dtype}[${arg.shape.map(word => evaluateWord(word, dims) ?? word).join(', ')}]`

/**
 * Finds the dimensions of a call and checks every argument against the contract, before any pointer leaves JavaScript.
 * @throws TypeError such as `rms_norm: w must be f32[4], got f32[5]`.
 */
export function bind(kernel: Kernel, bindings: Readonly<Record<string, Tensor | number | undefined>>): Bound {
  const plan = planOf(kernel)
  const { scalars, tensors, names, values } = plan
  let act: Activation | undefined
  values.fill(Number.NaN)
  for (let i = 0; i < scalars.length; i++) {
    const name = scalars[i]!
    const value = bindings[name]
    if (typeof value !== 'number')
      throw new TypeError(`${kernel.name}: ${name} must be a number, got ${value === undefined ? 'nothing' : value}`)
  }
  for (let i = 0; i < tensors.length; i++) {
    const { name, arg, words } = tensors[i]!
    const value = bindings[name]
    if (value instanceof Tensor) {
      learn(words, value.shape, values)
      if (arg.dtype === 'act') act ??= value.dtype === 'bf16' ? 'bf16' : 'f32'
    } else if (value !== undefined || !arg.optional)
      throw new TypeError(
        `${kernel.name}: ${name} must be ${show(arg, dimsOf(plan))}, got ${value === undefined ? 'nothing' : value}`,
      )
  }
  const dims = dimsOf(plan)
  for (let i = 0; i < tensors.length; i++) {
    const { name, arg, words } = tensors[i]!
    const value = bindings[name] as Tensor | undefined
    if (value === undefined || (accepts[arg.dtype](value.dtype, act) && fits(words, value.shape, values))) continue
    const wanted = arg.dtype === 'act' && act ? { ...arg, dtype: act } : arg
    throw new TypeError(`${kernel.name}: ${name} must be ${show(wanted, dims)}, got ${value.toString()}`)
  }
  for (const name in bindings) if (!names.has(name)) throw new TypeError(`${kernel.name} has no argument ${name}`)
  return { dims, act: act ?? 'f32' }
}
