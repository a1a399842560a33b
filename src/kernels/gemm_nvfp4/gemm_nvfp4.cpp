// The product of gemm_nvfp4.ts: blocks as in gemm_fp4.h, then the tensor scales of both operands.
#include "gemm_fp4.h"

static void run_gemm_nvfp4(const gemm_nvfp4_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const CodedOperand a{g.a_codes, g.a_scales, g.m, g.blocks}, b{g.b_codes, g.b_scales, g.n, g.blocks};
  const float bound = g.a_bound * g.b_bound;
  multiply_fp4<Nvfp4>(c, a, b, [&](int64_t row, int64_t column, int64_t count, const float* acc, float* y) {
    const float a_amax = g.a_amax[g.a_per_row ? row : 0];
    if (g.b_per_row) {
      for (int64_t j = 0; j < count; j++) y[j] = a_amax * g.b_amax[column + j] / bound * (acc[j] * 0.25f);
    } else {
      const float alpha = a_amax * g.b_amax[0] / bound;
      for (int64_t j = 0; j < count; j++) y[j] = alpha * (acc[j] * 0.25f);
    }
  });
}
EXPORT(gemm_nvfp4)
