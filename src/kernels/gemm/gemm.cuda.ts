import type { CudaKernel, Place, Product } from '../../tensor/cuda.ts'
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
const cover = (count: number, elements: number) => ({
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

/** The kernels of gemm.ts. `layoutA` t: a is [k,m]; `layoutB` t: b is [n,k]. */
export function plainProduct(layoutA: Side, layoutB: Side): CudaKernel {
  const sizes = (dims: Dims) => dims as { m: number; n: number; k: number }
  return {
    tolerance,
    workspace(dims) {
      const { m, n, k } = sizes(dims)
      return layoutOf(m, n, k).end
    },
    launches(dims, { round, accumulate }, { dtypes }) {
      const { m, n, k } = sizes(dims)
      const layout = layoutOf(m, n, k)
      const dtype = round === 1 || (dtypes.a === 'bf16' && dtypes.b === 'bf16') ? 'bf16' : 'f32'
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
        ...(dtypes.a === dtype ? [] : [{ entry: 'cast_a', ...cover(m * k, 4) }]),
        ...(dtypes.b === dtype ? [] : [{ entry: 'cast_b', ...cover(n * k, 4) }]),
        product,
        ...(direct ? [] : [{ entry: 'finish', ...cover(m * n, 1) }]),
      ]
    },
  }
}

export interface Expansion {
  /** BF16 where values times block scales are exact in it. */
  readonly dtype: 'bf16' | 'f32'
  /** Length of the contraction. */
  k(dims: Dims): number
  /** Scales of whole tensors, multiplied into the sums. */
  readonly factor: boolean
}

/** Products of images: codes are expanded to values times block scales, multiplied, and scaled by what belongs to whole tensors or rows. */
export function expandedProduct({ dtype, k: lengthOf, factor }: Expansion): CudaKernel {
  return {
    tolerance,
    workspace: dims => layoutOf(dims.m!, dims.n!, lengthOf(dims)).end,
    launches(dims, { accumulate, a_per_row, b_per_row }, { dtypes }) {
      const { m, n } = dims as { m: number; n: number }
      const k = lengthOf(dims)
      const layout = layoutOf(m, n, k)
      const perRow = a_per_row === 1 || b_per_row === 1
      const direct = !perRow && (dtypes.c === 'f32' || dtype === 'bf16')
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
