import { e4m3 } from '../../formats/minifloat.ts'
import { decodeUe8m0 } from '../../formats/ue8m0.ts'
import { type Dims, defineKernel, input, output } from '../../tensor/kernel.ts'
import { decodeE2m1 } from '../gemm/decode.ts'

/**
 * An image with E2M1 elements as the products of processors read their second operand: panels of `columns` rows of the image, unpacked, so that
 * what stays the same from product to product is unpacked once. Of each block of a panel, in this order:
 *
 *   quads    u8 [2 * words, columns, 4]: of each word of 4 bytes of codes the low nibbles, then the high ones, each as 2 * value + 12
 *   scales   f32 [columns]
 *
 * A block of NVFP4 has 2 words, one of MXFP4 has 4. Rows that the last panel has beyond those of the image hold values and scales of 0. A product
 * whose panels have another number of columns reads the codes instead.
 */
interface Format {
  readonly words: 2 | 4
  scale(code: number): number
}

function pack(
  { words, scale }: Format,
  { packed, codes, scales }: { packed: Uint8Array; codes: Uint8Array; scales: Uint8Array },
  { n, blocks, columns }: Dims,
): void {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  let at = 0
  for (let first = 0; at < packed.length; first += columns!)
    for (let block = 0; block < blocks!; block++) {
      const element = (column: number, index: number): number =>
        first + column < n! ? decodeE2m1(codes, ((first + column) * blocks! + block) * 8 * words + index) : 0
      for (let quad = 0; quad < 2 * words; quad++)
        for (let column = 0; column < columns!; column++)
          for (let i = 0; i < 4; i++) packed[at++] = 2 * element(column, (quad >> 1) * 8 + 2 * i + (quad % 2)) + 12
      for (let column = 0; column < columns!; column++, at += 4) {
        const row = first + column
        view.setFloat32(at, row < n! ? scale(scales[row * blocks! + block]!) : 0, true)
      }
    }
}

const packer = (name: string, format: Format) =>
  defineKernel({
    name,
    args: {
      packed: output('u8', 'panels', 'blocks', 'columns', 8 * format.words + 4),
      codes: input('u8', 'n', `${4 * format.words}*blocks`),
      scales: input('u8', 'n', 'blocks'),
    },
    reference: (values, dims) => pack(format, values, dims),
    cases: [
      ...(
        [
          [1, 1, 32],
          [40, 3, 32],
          [64, 9, 32],
          [33, 5, 8],
          [17, 4, 16],
        ] as const
      ).map(([n, blocks, columns]) => ({
        dims: { n, blocks, columns, panels: Math.ceil(n / columns) },
        inputs: finiteScales,
      })),
      {
        dims: { n: 1024, blocks: 32 / format.words, columns: 32, panels: 32 },
        inputs: finiteScales,
        bench: true,
      },
    ],
    tolerance: 0,
  })

const finiteScales = ({ n, blocks }: Dims) => ({
  scales: Uint8Array.from({ length: n! * blocks! }, (_, i) => (i * 37) % 0x7f),
})

const nvfp4: Format = { words: 2, scale: code => e4m3.values[code]! }
const mxfp4: Format = { words: 4, scale: decodeUe8m0 }

/** By format: those that have panels. */
export const packs = { nvfp4: packer('pack_nvfp4', nvfp4), mxfp4: packer('pack_mxfp4', mxfp4) } as const

/** What a product of `n` rows is given, for its cases. */
export function packedOf(
  format: keyof typeof packs,
  codes: Uint8Array,
  scales: Uint8Array,
  { n, blocks, columns }: Dims,
): Uint8Array {
  const of = { nvfp4, mxfp4 }[format]
  const packed = new Uint8Array(Math.ceil(n! / columns!) * blocks! * columns! * (8 * of.words + 4))
  pack(of, { packed, codes, scales }, { n: n!, blocks: blocks!, columns: columns! })
  return packed
}
