import type { CudaCall, CudaKernel, Launch, Place, Product, Scalars, ScaleLayout } from '../../tensor/cuda.ts'
import type { Dims } from '../../tensor/kernel.ts'

/**
 * Products on a GPU: operands are brought to one dtype in the workspace where they are not, then cuBLASLt multiplies. BF16 operands go
 * through tensor cores, which sum in FP32; FP32 operands are multiplied as FP32.
 *
 * The workspace is laid out alike here and in gemm_cuda.h: a factor, a, b, and c in FP32 before its last rounding.
 */

/** cuBLASLt chooses the order of sums, and tensor cores round towards zero within: no order gives the reference's bits. */
const tolerance = 1e-5

const factorBytes = 256
const aligned = (bytes: number): number => Math.ceil(bytes / 256) * 256
const threads = 256
/** One thread for `elements` elements, in blocks of `threads`. */
export const cover = (count: number, elements: number) => ({
  grid: Math.min(Math.ceil(count / elements / threads), 2 ** 20),
  block: threads,
})

interface Layout {
  readonly a: number
  readonly b: number
  readonly c: number
  readonly end: number
}

function layoutOf(m: number, n: number, k: number): Layout {
  const a = factorBytes
  const b = a + aligned(m * k * 4)
  const c = b + aligned(n * k * 4)
  return { a, b, c, end: c + aligned(m * n * 4) }
}

type Side = 'n' | 't'

/** The dtype to which operands are brought. */
const operandsOf = ({ a, b }: CudaCall['dtypes'], round: number | undefined): 'bf16' | 'f32' =>
  round === 1 || (a === 'bf16' && b === 'bf16') ? 'bf16' : 'f32'

/** The kernels of gemm.ts. `layoutA` t: a is [k,m]; `layoutB` t: b is [n,k]. */
export function plainProduct(layoutA: Side, layoutB: Side): CudaKernel {
  const sizes = (dims: Dims) => dims as { m: number; n: number; k: number }
  return {
    tolerance,
    workspace(dims, { round }, { dtypes }) {
      const { m, n, k } = sizes(dims)
      const { b, c, end } = layoutOf(m, n, k)
      const dtype = operandsOf(dtypes, round)
      if (dtypes.c === 'bf16' && dtype === 'f32') return end
      return dtypes.b !== dtype ? c : dtypes.a !== dtype ? b : 0
    },
    launches(dims, { round, accumulate }, { dtypes }) {
      const { m, n, k } = sizes(dims)
      const layout = layoutOf(m, n, k)
      const dtype = operandsOf(dtypes, round)
      const a: Place = { at: dtypes.a === dtype ? 'a' : layout.a, dtype }
      const b: Place = { at: dtypes.b === dtype ? 'b' : layout.b, dtype }
      // cuBLASLt writes BF16 only from BF16 operands.
      const direct = dtypes.c === 'f32' || dtype === 'bf16'
      const product: Product = {
        m,
        n,
        k,
        a: { ...a, transposed: layoutA === 't' },
        b: { ...b, transposed: layoutB === 't' },
        c: direct ? { at: 'c', dtype: dtypes.c as 'f32' | 'bf16' } : { at: layout.c, dtype: 'f32' },
        accumulate: direct && accumulate === 1,
      }
      return [
        ...(dtypes.a === dtype ? [] : [{ entry: 'cast_a', ...cover(m * k, 8) }]),
        ...(dtypes.b === dtype ? [] : [{ entry: 'cast_b', ...cover(n * k, 8) }]),
        product,
        ...(direct ? [] : [{ entry: 'finish', ...cover(m * n, 1) }]),
      ]
    },
  }
}

/** A product of codes, multiplied by tensor cores that read them, where cuBLASLt offers it. */
export interface Native {
  readonly dtype: 'e4m3' | 'e2m1'
  /** Layouts of the scales, or undefined if the call is not of this kind. */
  layouts(dims: Dims, scalars: Scalars): { readonly a: ScaleLayout; readonly b: ScaleLayout } | undefined
  /** Names of the arguments with scales that lie as they should; others are brought to the place of their operand in the workspace. */
  scales(dims: Dims): { readonly a?: string; readonly b?: string }
  /** Launches that bring them there. */
  arrange?(dims: Dims): readonly Launch[]
  /** Whether scales of whole tensors are multiplied into the sums, by the launch `factor`. */
  readonly factor?: true
}

export interface Expansion {
  /** BF16 where values times block scales are exact in it. */
  readonly dtype: 'bf16' | 'f32'
  /** Length of the contraction. */
  k(dims: Dims): number
  /** Scales of whole tensors, multiplied into the sums. */
  readonly factor: boolean
  readonly native?: Native
  readonly tolerance?: number
}

/** Whether cuBLASLt can write c itself: one factor for all of it, and BF16 from BF16 alone. */
const isDirect = (dtype: 'bf16' | 'f32', { a_per_row, b_per_row }: Scalars, { dtypes }: CudaCall): boolean =>
  a_per_row !== 1 && b_per_row !== 1 && (dtypes.c === 'f32' || dtype === 'bf16')

function nativeLaunches(
  native: Native,
  { m, n, k }: { m: number; n: number; k: number },
  layout: Layout,
  dims: Dims,
  scalars: Scalars,
  { dtypes, offers }: CudaCall,
): (Launch | Product)[] | undefined {
  const layouts = native.layouts(dims, scalars)
  // Rows of codes that tensor cores read begin at multiples of 16 bytes, and so do those of c.
  if (!offers || !layouts || m % 16 !== 0 || n % 16 !== 0 || k % 32 !== 0) return undefined
  const { dtype, factor } = native
  const { a, b } = native.scales(dims)
  const product: Product = {
    m,
    n,
    k,
    a: { at: 'a_codes', dtype, scales: { at: a ?? layout.a, layout: layouts.a }, transposed: false },
    b: { at: 'b_codes', dtype, scales: { at: b ?? layout.b, layout: layouts.b }, transposed: true },
    c: { at: 'c', dtype: dtypes.c as 'f32' | 'bf16' },
    ...(factor ? { alpha: 0 } : {}),
    accumulate: scalars.accumulate === 1,
  }
  if (!offers(product)) return undefined
  return [...(native.arrange?.(dims) ?? []), ...(factor ? [{ entry: 'factor', grid: 1, block: 32 }] : []), product]
}

/** Products of images: codes are expanded to values times block scales, multiplied, and scaled by what belongs to whole tensors or rows. */
export function expandedProduct(expansion: Expansion): CudaKernel {
  const { dtype, k: lengthOf, factor, native } = expansion
  return {
    tolerance: expansion.tolerance ?? tolerance,
    workspace(dims, scalars, call) {
      const { c, end } = layoutOf(dims.m!, dims.n!, lengthOf(dims))
      return isDirect(dtype, scalars, call) ? c : end
    },
    launches(dims, scalars, call) {
      const { m, n } = dims as { m: number; n: number }
      const { accumulate } = scalars
      const { dtypes } = call
      const k = lengthOf(dims)
      const layout = layoutOf(m, n, k)
      const read = native && nativeLaunches(native, { m, n, k }, layout, dims, scalars, call)
      if (read) return read
      const direct = isDirect(dtype, scalars, call)
      const product: Product = {
        m,
        n,
        k,
        a: { at: layout.a, dtype, transposed: false },
        b: { at: layout.b, dtype, transposed: true },
        c: direct ? { at: 'c', dtype: dtypes.c as 'f32' | 'bf16' } : { at: layout.c, dtype: 'f32' },
        ...(factor && direct ? { alpha: 0 } : {}),
        accumulate: direct && accumulate === 1,
      }
      return [
        { entry: 'expand_a', ...cover(m * k, 16) },
        { entry: 'expand_b', ...cover(n * k, 16) },
        ...(factor && direct ? [{ entry: 'factor', grid: 1, block: 32 }] : []),
        product,
        ...(direct ? [] : [{ entry: 'finish', ...cover(m * n, 1) }]),
      ]
    },
  }
}
