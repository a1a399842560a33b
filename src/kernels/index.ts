import type { Kernel } from '../tensor/kernel.ts'
import { convSilu, convSiluBackward } from './conv_silu/conv_silu.ts'
import { gatedNorm, gatedNormBackward } from './gated_norm/gated_norm.ts'
import { rmsNorm, rmsNormBackward } from './rms_norm/rms_norm.ts'

/** Every kernel there is: read by conformance tests, benchmarks, the header generator and the backends' loaders. */
export const kernels: readonly Kernel[] = [
  rmsNorm,
  rmsNormBackward,
  convSilu,
  convSiluBackward,
  gatedNorm,
  gatedNormBackward,
] as unknown as Kernel[]
