// The product of gemm_nvfp4.ts: blocks as in gemm_fp4.h, then the tensor scales of both operands.
#include "gemm_fp4.h"

static void run_gemm_nvfp4(const gemm_nvfp4_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const CodedOperand a{g.a_codes, g.a_scales, g.m, g.blocks}, b{g.b_codes, g.b_scales, g.n, g.blocks};
  const float bound = g.a_bound * g.b_bound;
  const auto scale = [&](int64_t row, int64_t column) {
    return g.a_amax[g.a_per_row ? row : 0] * g.b_amax[g.b_per_row ? column : 0] / bound;
  };
  const Factor<decltype(scale)> factor{g.a_per_row || g.b_per_row, scale(0, 0), scale};
  multiply_fp4<Nvfp4>(c, a, b, factor, packed_for_tiles(g.b_packed, g.columns));
}
EXPORT(gemm_nvfp4)
