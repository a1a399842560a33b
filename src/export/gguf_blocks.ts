import { ggufTypes } from './gguf.ts'
import type { WeightImage } from './images.ts'

/**
 * Rows of an image in ggml's blocks. The codes and scale bytes are those of training; only their places change, because ggml pairs elements half a
 * block apart (docs/export.md, "GGUF"):
 *
 *   NVFP4, 64 elements    4 scales, then for each sixteen elements 8 bytes: low nibble element j, high nibble element j + 8
 *   MXFP4, 32 elements    1 scale, then 16 bytes: low nibble element j, high nibble element j + 16
 */

/** Writes `size` codes from `codes` at element `from` as size / 2 bytes with halves `size / 2` apart. */
function pairHalves(codes: Uint8Array, from: number, size: number, into: Uint8Array, at: number): void {
  const half = size / 2
  for (let j = 0; j < half; j++) {
    const [low, high] = [from + j, from + j + half]
    const first = (codes[low >> 1]! >> ((low & 1) * 4)) & 15
    const second = (codes[high >> 1]! >> ((high & 1) * 4)) & 15
    into[at + j] = first | (second << 4)
  }
}

/** How many elements of a scale are in a type's block, and how many scales. */
const layouts = { nvfp4: { scales: 4, each: 16 }, mxfp4: { scales: 1, each: 32 } } as const
export type BlockType = keyof typeof layouts

export const isBlockType = (format: string): format is BlockType => Object.hasOwn(layouts, format)

/** Whether the rows are whole blocks. */
export const fits = (format: BlockType, cols: number): boolean => cols % ggufTypes[format].block === 0

/** Bytes of all rows of an image. */
export function ggufBlocks(image: WeightImage, format: BlockType): Uint8Array {
  const { rows, cols, codes, scales } = image
  const { block, bytes } = ggufTypes[format]
  const { scales: count, each } = layouts[format]
  const blocks = (rows * cols) / block
  const packed = new Uint8Array(blocks * bytes)
  for (let b = 0; b < blocks; b++) {
    const at = b * bytes
    packed.set(scales.subarray(b * count, (b + 1) * count), at)
    for (let s = 0; s < count; s++) pairHalves(codes, b * block + s * each, each, packed, at + count + (s * each) / 2)
  }
  return packed
}
