/**
 * halfbyte as a library: the formats and rounding of NVFP4 training, to the bit, on plain typed arrays. Nothing exported here needs native code.
 * The specification of every number is docs/numerics.md.
 *
 *   import { quantize, dequantize } from 'halfbyte'
 *   const q = quantize(values, [rows, cols], { format: 'nvfp4' })
 *   q.codes    // Uint8Array, two codes to a byte
 *   q.scales   // Uint8Array of E4M3 block scales
 *   dequantize(q)
 */
export { decodeBf16, encodeBf16, fromBf16, roundBf16, toBf16 } from './formats/bf16.ts'
export { dequantizeMatrix } from './formats/dequantize.ts'
export { type FormatName, formats, type NumberFormat } from './formats/formats.ts'
export { multiplyQuantized } from './formats/gemm.ts'
export {
  hadamardSizes,
  type RotateOptions,
  rotate,
  type Signs,
  signWords,
  transpose,
  unrotate,
} from './formats/hadamard.ts'
export { decode, e2m1, e4m3, e5m2, encodeNearest, encodeStochastic, type MiniFloat } from './formats/minifloat.ts'
export { philox } from './formats/philox.ts'
export {
  dequantize,
  type Preparation,
  type PrepareOptions,
  type QuantizedTensor,
  type QuantizeTensorOptions,
  quantize,
} from './formats/prepare.ts'
export { amaxOf, type QuantizedMatrix, type QuantizeOptions, quantizeMatrix } from './formats/quantize.ts'
export { type QuantizationReport, reportOn } from './formats/report.ts'
export { swizzle, swizzledSize, swizzleOffset, unswizzle } from './formats/swizzle.ts'
export { decodeUe8m0, encodeFloor, encodeUp } from './formats/ue8m0.ts'
export {
  floatsOf,
  openSafetensors,
  parseHeader,
  readSafetensors,
  type SafetensorsContents,
  type SafetensorsDtype,
  SafetensorsError,
  type SafetensorsFile,
  type StoredTensor,
  type TensorToWrite,
  writeSafetensors,
} from './tensor/safetensors.ts'
