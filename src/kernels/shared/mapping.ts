import { roundBf16 } from '../../formats/bf16.ts'
import type { Activation } from '../../tensor/dtype.ts'
import { type Dims, i32, input, optional } from '../../tensor/kernel.ts'

/**
 * What a kernel may read in place of x [rows, cols]: a function of each element, applied as it is loaded, with the bits that the function's own
 * kernel would have stored. So an operand that only this kernel reads is never written to memory.
 *
 *   squared 1             max(x, 0)^2                     squared_relu
 *   inverse and w given   x[r,c] * inverse[r] * w[c]      rms_norm
 */
export const mappingArgs = {
  inverse: optional(input('f32', 'rows')),
  w: optional(input('f32', 'cols')),
  squared: i32,
}

interface Mapping {
  readonly inverse?: Float32Array | undefined
  readonly w?: Float32Array | undefined
  readonly squared?: number
}

/** x as it is read: FP32 after every operation, then rounded to the dtype of activations. */
export function mapped(
  x: Float32Array,
  { inverse, w, squared }: Mapping,
  { cols }: Dims,
  act: Activation,
): Float32Array {
  if (!inverse && !squared) return x
  const round = act === 'bf16' ? roundBf16 : Math.fround
  return x.map((value, i) => {
    if (squared) return round(Math.fround((value < 0 ? 0 : value) ** 2))
    return round(Math.fround(Math.fround(value * inverse![Math.floor(i / cols!)]!) * w![i % cols!]!))
  })
}
