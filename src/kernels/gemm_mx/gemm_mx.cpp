// The products of gemm_mx.ts.
#include "gemm_fp4.h"
#include "gemm_fp8.h"

static void run_gemm_mxfp4(const gemm_mxfp4_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const CodedOperand a{g.a_codes, g.a_scales, g.m, g.blocks}, b{g.b_codes, g.b_scales, g.n, g.blocks};
  const auto one = [](int64_t, int64_t) { return 1.0f; };
  multiply_fp4<Mxfp4>(c, a, b, Factor<decltype(one)>{false, 1, one}, packed_for_tiles(g.b_packed, g.columns));
}
EXPORT(gemm_mxfp4)

static void run_gemm_mxfp8(const gemm_mxfp8_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const int64_t blocks = g.blocks, k = 32 * blocks;
  const auto operand = [&](const uint8_t* codes, const uint8_t* scales) {
    const auto scale = [=](int64_t row, int64_t block) { return ue8m0_value(scales[row * blocks + block]); };
    return Fp8Operand<decltype(scale)>{codes, k, 32, scale};
  };
  multiply_floats(c, operand(g.a_codes, g.a_scales), operand(g.b_codes, g.b_scales), g.m, g.n, k, 1);
}
EXPORT(gemm_mxfp8)
