import type { Kernel } from '../tensor/kernel.ts'
import { adamw } from './adamw/adamw.ts'
import { add } from './add/add.ts'
import { amax, amaxBoth, amaxLines, amaxRotated } from './amax/amax.ts'
import { attention, attentionBackward } from './attention/attention.ts'
import { attentionStep } from './attention_step/attention_step.ts'
import { cast } from './cast/cast.ts'
import { convSilu, convSiluBackward } from './conv_silu/conv_silu.ts'
import { convSiluStep } from './conv_silu_step/conv_silu_step.ts'
import { crossEntropy, lossSum } from './cross_entropy/cross_entropy.ts'
import { dequantize } from './dequantize/dequantize.ts'
import { embedding, embeddingBackward } from './embedding/embedding.ts'
import { fmaPeak } from './fma_peak/fma_peak.ts'
import { gatedNorm, gatedNormBackward } from './gated_norm/gated_norm.ts'
import { gemmNn, gemmNt, gemmTn, gemmTt } from './gemm/gemm.ts'
import { gemmFp8, gemmFp8Tensor } from './gemm_fp8/gemm_fp8.ts'
import { gemmMxfp4, gemmMxfp8 } from './gemm_mx/gemm_mx.ts'
import { gemmNvfp4 } from './gemm_nvfp4/gemm_nvfp4.ts'
import { gradientStatistics } from './gradient_statistics/gradient_statistics.ts'
import { optimizerControl } from './optimizer_control/optimizer_control.ts'
import { packs } from './pack/pack.ts'
import { quantizeKernels } from './quantize/quantize.ts'
import { rmsNorm, rmsNormBackward } from './rms_norm/rms_norm.ts'
import { rope } from './rope/rope.ts'
import { rotate } from './rotate/rotate.ts'
import { squaredRelu, squaredReluBackward } from './squared_relu/squared_relu.ts'
import { ssd, ssdBackward } from './ssd/ssd.ts'
import { ssdStep } from './ssd_step/ssd_step.ts'
import { zeroColumns } from './zero_columns/zero_columns.ts'

/** Every kernel there is: read by conformance tests, benchmarks, the header generator and the backends' loaders. */
export const kernels: readonly Kernel[] = [
  amax,
  amaxRotated,
  amaxBoth,
  amaxLines,
  rotate,
  ...quantizeKernels,
  ...Object.values(dequantize),
  ...Object.values(packs),
  cast,
  fmaPeak,
  gemmNt,
  gemmNn,
  gemmTn,
  gemmTt,
  gemmNvfp4,
  gemmMxfp4,
  gemmMxfp8,
  gemmFp8,
  gemmFp8Tensor,
  rmsNorm,
  rmsNormBackward,
  convSilu,
  convSiluBackward,
  convSiluStep,
  gatedNorm,
  gatedNormBackward,
  ssd,
  ssdBackward,
  ssdStep,
  embedding,
  embeddingBackward,
  add,
  squaredRelu,
  squaredReluBackward,
  crossEntropy,
  lossSum,
  attention,
  attentionBackward,
  attentionStep,
  rope,
  adamw,
  gradientStatistics,
  optimizerControl,
  zeroColumns,
] as unknown as Kernel[]
