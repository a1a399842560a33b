/**
 * The layout in which Blackwell's tensor cores read block scales. Rows are padded to 128, scale columns to 4, with zeros; one atom of 512
 * bytes holds 128 rows x 4 columns:
 *
 *   offset(r, c) = (floor(r / 128) * ceil(C / 4) + floor(c / 4)) * 512 + (r % 32) * 16 + floor(r % 128 / 32) * 4 + c % 4
 *
 * Files hold scales in linear order [rows, cols], without padding. Source: cuBLAS documentation, "1D block scaling factors layout".
 */
export const swizzleOffset = (row: number, col: number, cols: number): number =>
  (Math.floor(row / 128) * Math.ceil(cols / 4) + Math.floor(col / 4)) * 512 +
  (row % 32) * 16 +
  Math.floor((row % 128) / 32) * 4 +
  (col % 4)

/** Bytes of a swizzled matrix of scales. */
export const swizzledSize = (rows: number, cols: number): number =>
  Math.ceil(rows / 128) * 128 * Math.ceil(cols / 4) * 4

/** `scales`, [rows, cols] in linear order, in tensor-core order and zero padded. */
export function swizzle(scales: Uint8Array, rows: number, cols: number): Uint8Array {
  const into = new Uint8Array(swizzledSize(rows, cols))
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) into[swizzleOffset(r, c, cols)] = scales[r * cols + c]!
  return into
}

/** The inverse of `swizzle`; padding is dropped. */
export function unswizzle(swizzled: Uint8Array, rows: number, cols: number): Uint8Array {
  const into = new Uint8Array(rows * cols)
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < cols; c++) into[r * cols + c] = swizzled[swizzleOffset(r, c, cols)]!
  return into
}
