import { gemmNn, gemmNt, gemmTn, gemmTt } from '../kernels/gemm/gemm.ts'
import { gemmFp8, gemmFp8Tensor } from '../kernels/gemm_fp8/gemm_fp8.ts'
import { gemmMxfp4, gemmMxfp8 } from '../kernels/gemm_mx/gemm_mx.ts'
import { gemmNvfp4 } from '../kernels/gemm_nvfp4/gemm_nvfp4.ts'
import type { FormatName } from '../recipes/recipe.ts'
import type { Backend } from '../tensor/backend.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Allocate, dequantizeImage, type Image } from './image.ts'
import type { Panels } from './panels.ts'

/** A matrix of floats as an operand: [rows, contraction], or [contraction, rows] if `transposed`; `round`: to BF16 first. */
interface Plain {
  readonly tensor: Tensor
  readonly transposed: boolean
  readonly round: boolean
}

/** An operand of a product, as rows along the contraction; an image that is the second may come with its panels. */
export type Source = { readonly image: Image; readonly panels?: Panels } | Plain

type ImageProduct = (
  backend: Backend,
  c: Tensor,
  a: Image,
  b: Image,
  accumulate: 0 | 1,
  packed: Tensor | undefined,
) => void

const coded = (c: Tensor, a: Image, b: Image, accumulate: 0 | 1) => ({
  c,
  a_codes: a.codes,
  a_scales: a.scales,
  b_codes: b.codes,
  b_scales: b.scales,
  accumulate,
})

/** The product of two images of each format. */
const imageProducts: Readonly<Record<FormatName, ImageProduct>> = {
  nvfp4: (backend, c, a, b, accumulate, packed) =>
    backend.run(gemmNvfp4, {
      ...coded(c, a, b, accumulate),
      a_amax: a.amax,
      b_amax: b.amax,
      b_packed: packed,
      a_bound: a.bound,
      b_bound: b.bound,
      a_per_row: a.outer === 'row' ? 1 : 0,
      b_per_row: b.outer === 'row' ? 1 : 0,
    }),
  mxfp4: (backend, c, a, b, accumulate, packed) =>
    backend.run(gemmMxfp4, { ...coded(c, a, b, accumulate), b_packed: packed }),
  mxfp8: (backend, c, a, b, accumulate) => backend.run(gemmMxfp8, coded(c, a, b, accumulate)),
  fp8: (backend, c, a, b, accumulate) => backend.run(gemmFp8, coded(c, a, b, accumulate)),
  'fp8-tensor': (backend, c, a, b, accumulate) =>
    backend.run(gemmFp8Tensor, {
      c,
      a_codes: a.codes,
      a_scale: a.scales,
      b_codes: b.codes,
      b_scale: b.scales,
      accumulate,
    }),
}

function multiplyPlain(backend: Backend, c: Tensor, a: Plain, b: Plain, accumulate: 0 | 1): void {
  if (a.round !== b.round) throw new Error('the operands of a product must both be rounded to BF16, or neither')
  const bindings = { c, a: a.tensor, b: b.tensor, accumulate, round: a.round ? 1 : 0 }
  if (a.transposed) backend.run(b.transposed ? gemmTn : gemmTt, bindings)
  else backend.run(b.transposed ? gemmNn : gemmNt, bindings)
}

/** The image as the matrix that it stands for, as the other operand is read. */
function expand(backend: Backend, allocate: Allocate, image: Image, round: boolean): Plain {
  return { tensor: dequantizeImage(backend, allocate, image, round ? 'bf16' : 'f32'), transposed: false, round }
}

/**
 * c[m,n] = sum_k A[m,k] * B[n,k], or added to c if `accumulate`.
 *
 * Two images are multiplied in their format. An image against floats is dequantised and multiplied as floats, rounded to BF16 if the
 * other operand is. `allocate` gives memory that lives at least until the product is done.
 * @throws Error if the images are of different formats, or only one of two matrices is rounded; TypeError if shapes do not fit.
 */
export function multiply(
  backend: Backend,
  allocate: Allocate,
  c: Tensor,
  a: Source,
  b: Source,
  accumulate: 0 | 1,
): void {
  if ('image' in a && 'image' in b) {
    if (a.image.format !== b.image.format)
      throw new Error(`cannot multiply ${a.image.format} by ${b.image.format}: both operands must be of one format`)
    imageProducts[a.image.format](backend, c, a.image, b.image, accumulate, b.panels?.of(b.image))
  } else if ('image' in a) {
    const floats = b as Plain
    multiplyPlain(backend, c, expand(backend, allocate, a.image, floats.round), floats, accumulate)
  } else {
    const other = 'image' in b ? expand(backend, allocate, b.image, a.round) : b
    multiplyPlain(backend, c, a, other, accumulate)
  }
}
