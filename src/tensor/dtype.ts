/** What an element of a tensor in memory may be. Quantised tensors are `u8` codes with separate scales. */
export const dtypes = {
  f32: { bytes: 4, array: Float32Array, c: 'float' },
  bf16: { bytes: 2, array: Uint16Array, c: 'bf16' },
  u8: { bytes: 1, array: Uint8Array, c: 'uint8_t' },
  i32: { bytes: 4, array: Int32Array, c: 'int32_t' },
  u32: { bytes: 4, array: Uint32Array, c: 'uint32_t' },
} as const

export type DType = keyof typeof dtypes
export type Activation = 'f32' | 'bf16'
export type TypedArray = Float32Array | Uint16Array | Uint8Array | Int32Array | Uint32Array
