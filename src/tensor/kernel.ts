import type { CudaKernel } from './cuda.ts'
import type { Activation, DType } from './dtype.ts'
import type { Tensor } from './tensor.ts'

/**
 * The contract of a kernel: typed arguments, the reference that defines it, and the cases that conformance tests and
 * benchmarks read. One contract has three implementations: the reference here, `<name>.cpp` and `<name>.cu`.
 *
 * A shape is written in words: `output('act', 'rows', 'cols')`. A word is a dimension of the call, found from whatever tensor
 * carries it plainly; `cols/16` and `2*cols` are derived and checked. Every word becomes an int64 argument of the native code.
 *
 * Dtypes: `act` is the dtype of activations, f32 or bf16, one for the whole call, and a template parameter of the native
 * code. `float` is f32 or bf16 for that argument alone, told to the native code at run time. The reference always sees both,
 * and `bf16`, as Float32Array: the backend decodes before and rounds to nearest-even after.
 */

export type Access = 'in' | 'out' | 'inout'
export type ArgDType = DType | 'act' | 'float'

export interface TensorArg<D extends ArgDType = ArgDType, O extends boolean = boolean> {
  readonly kind: 'tensor'
  readonly access: Access
  readonly dtype: D
  readonly shape: readonly (string | number)[]
  readonly optional: O
}
export interface ScalarArg {
  readonly kind: 'scalar'
  readonly type: 'f32' | 'i32' | 'u32'
}
export type Args = Readonly<Record<string, TensorArg | ScalarArg>>
export type Dims = Record<string, number>

type Shape = readonly (string | number)[]
const tensorArg = <D extends ArgDType>(access: Access, dtype: D, shape: Shape): TensorArg<D, false> => ({
  kind: 'tensor',
  access,
  dtype,
  shape,
  optional: false,
})
/** Read only. */
export const input = <D extends ArgDType>(dtype: D, ...shape: Shape) => tensorArg('in', dtype, shape)
/** Wholly written; what it held before does not matter. */
export const output = <D extends ArgDType>(dtype: D, ...shape: Shape) => tensorArg('out', dtype, shape)
/** Read and written, for example accumulated into. */
export const inout = <D extends ArgDType>(dtype: D, ...shape: Shape) => tensorArg('inout', dtype, shape)
/** May be left out; the reference sees `undefined`, native code a null pointer. */
export const optional = <D extends ArgDType>(arg: TensorArg<D, false>): TensorArg<D, true> => ({
  ...arg,
  optional: true,
})

export const f32: ScalarArg = { kind: 'scalar', type: 'f32' }
export const i32: ScalarArg = { kind: 'scalar', type: 'i32' }
export const u32: ScalarArg = { kind: 'scalar', type: 'u32' }

type ArrayOf<D extends ArgDType> = D extends 'u8'
  ? Uint8Array
  : D extends 'i32'
    ? Int32Array
    : D extends 'u32'
      ? Uint32Array
      : Float32Array

/** What the reference is called with. */
export type Values<A extends Args> = {
  [K in keyof A]: A[K] extends TensorArg<infer D, infer O>
    ? O extends true
      ? ArrayOf<D> | undefined
      : ArrayOf<D>
    : number
}

type OptionalKeys<A extends Args> = { [K in keyof A]: A[K] extends TensorArg<ArgDType, true> ? K : never }[keyof A]
/** What `backend.run` is called with: a tensor for each tensor, a number for each scalar. */
export type Bindings<A extends Args> = {
  [K in Exclude<keyof A, OptionalKeys<A>>]: A[K] extends TensorArg ? Tensor : number
} & { [K in OptionalKeys<A>]?: Tensor | undefined }

export interface Case<A extends Args = Args> {
  readonly name?: string
  readonly dims: Dims
  /** A value for every scalar argument. */
  readonly scalars?: { [K in keyof A as A[K] extends ScalarArg ? K : never]?: number }
  /** Optional tensors to pass in this case. */
  readonly with?: readonly (keyof A & string)[]
  /** Inputs that must not be standard normal (floats) or uniform bytes (u8): values in the reference's representation. */
  readonly inputs?: (dims: Dims) => { [K in keyof A]?: Values<A>[K] }
  /** Real sizes: timed by `npm run bench`, left out of conformance. */
  readonly bench?: true
  /** Floating-point operations of this case, for GFLOP/s; where absent, GB/s of the arguments are printed. */
  readonly flops?: number
}

export interface Kernel<A extends Args = Args> {
  /** snake_case; also the name of the folder, of the .cpp and .cu file and of the C symbol. */
  readonly name: string
  readonly args: A
  /** The definition, in plain loops. `act` is the dtype of this call's `act` arguments, whose values it sees decoded. */
  reference(values: Values<A>, dims: Dims, act: Activation): void
  readonly cases: readonly Case<A>[]
  /**
   * Largest difference from the reference, relative to the largest magnitude of the output; 0 means bit-equal. Integer outputs are
   * always compared exactly, and an output stored as BF16 may also differ by its own rounding.
   */
  readonly tolerance: number | { readonly [K in keyof A]?: number }
  /** Floating-point operations of a call, where arithmetic and not memory bounds it; what `--profile` and benchmarks divide by time. */
  flops?(dims: Dims, scalars: { readonly [K in keyof A as A[K] extends ScalarArg ? K : never]: number }): number
  /** Launches on a GPU; absent: one launch of any grid and block. */
  readonly cuda?: CudaKernel
}

/** Declares a kernel; the identity function, for its types. */
export const defineKernel = <const A extends Args>(kernel: Kernel<A>): Kernel<A> => kernel
