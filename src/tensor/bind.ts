import type { Activation } from './dtype.ts'
import type { Args, Dims, Kernel, TensorArg } from './kernel.ts'
import { Tensor } from './tensor.ts'

export interface Bound {
  dims: Dims
  /** Dtype that the `act` arguments of this call share; f32 where the kernel has none. */
  act: Activation
}

/** A shape word as a sum-free expression: `cols`, `cols/16`, `2*cols`, `16`. Returns undefined while its word is unknown. */
export function evaluateWord(word: string | number, dims: Dims): number | undefined {
  if (typeof word === 'number') return word
  const divided = word.indexOf('/')
  if (divided >= 0) {
    const n = dims[word.slice(0, divided)]
    return n === undefined ? undefined : n / Number(word.slice(divided + 1))
  }
  const times = word.indexOf('*')
  if (times >= 0) {
    const n = dims[word.slice(times + 1)]
    return n === undefined ? undefined : n * Number(word.slice(0, times))
  }
  return dims[word]
}

/** Names of all dimensions of a kernel, in order of first appearance: the order of the int64 arguments of native code. */
export function dimNames(args: Args): string[] {
  const names = new Set<string>()
  for (const arg of Object.values(args))
    if (arg.kind === 'tensor')
      for (const word of arg.shape) if (typeof word === 'string') names.add(word.replace(/\/\d+$|^\d+\*/, ''))
  return [...names]
}

const show = (arg: TensorArg, dims: Dims): string =>
  `${arg.dtype}[${arg.shape.map(word => evaluateWord(word, dims) ?? word).join(', ')}]`

/**
 * Finds the dimensions of a call and checks every argument against the contract, before any pointer leaves JavaScript.
 * @throws TypeError such as `rms_norm: w must be f32[4], got f32[5]`.
 */
export function bind(kernel: Kernel, bindings: Readonly<Record<string, Tensor | number | undefined>>): Bound {
  const dims: Dims = {}
  let act: Activation | undefined
  for (const name in kernel.args) {
    const arg = kernel.args[name]!
    const value = bindings[name]
    if (arg.kind === 'scalar') {
      if (typeof value !== 'number')
        throw new TypeError(`${kernel.name}: ${name} must be a number, got ${value === undefined ? 'nothing' : value}`)
      continue
    }
    if (value === undefined && arg.optional) continue
    if (!(value instanceof Tensor))
      throw new TypeError(
        `${kernel.name}: ${name} must be ${show(arg, dims)}, got ${value === undefined ? 'nothing' : value}`,
      )
    for (let i = 0; i < arg.shape.length; i++) {
      const word = arg.shape[i]!
      if (typeof word === 'string' && dims[word] === undefined && !word.includes('/') && !word.includes('*'))
        dims[word] = value.shape[i]!
    }
    if (arg.dtype === 'act') act ??= value.dtype === 'bf16' ? 'bf16' : 'f32'
  }
  for (const name in kernel.args) {
    const arg = kernel.args[name]!
    const value = bindings[name]
    if (arg.kind === 'scalar' || !(value instanceof Tensor)) continue
    const dtypeFits =
      arg.dtype === 'act'
        ? value.dtype === act
        : arg.dtype === 'float'
          ? value.dtype === 'f32' || value.dtype === 'bf16'
          : value.dtype === arg.dtype
    const shapeFits =
      value.shape.length === arg.shape.length &&
      arg.shape.every((word, i) => evaluateWord(word, dims) === value.shape[i])
    if (!dtypeFits || !shapeFits) {
      const wanted = arg.dtype === 'act' && act ? { ...arg, dtype: act } : arg
      throw new TypeError(`${kernel.name}: ${name} must be ${show(wanted, dims)}, got ${value.toString()}`)
    }
  }
  for (const name of Object.keys(bindings))
    if (!(name in kernel.args)) throw new TypeError(`${kernel.name} has no argument ${name}`)
  return { dims, act: act ?? 'f32' }
}
