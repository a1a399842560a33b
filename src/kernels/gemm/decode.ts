import { e2m1 } from '../../formats/minifloat.ts'
import { codeAt } from '../../formats/quantize.ts'

/** The value of element `index` of E2M1 codes packed two to a byte, the even element in the low nibble. */
export const decodeE2m1 = (codes: Uint8Array, index: number): number => e2m1.values[codeAt(codes, e2m1.bits, index)]!
