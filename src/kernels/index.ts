import type { Kernel } from '../tensor/kernel.ts'
import { rmsNorm, rmsNormBackward } from './rms_norm/rms_norm.ts'

/** Every kernel there is: read by conformance tests, benchmarks, the header generator and the backends' loaders. */
export const kernels: readonly Kernel[] = [rmsNorm, rmsNormBackward] as unknown as Kernel[]
