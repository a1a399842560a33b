// The products of gemm_fp8.ts.
#include "gemm_fp8.h"

static void run_gemm_fp8(const gemm_fp8_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const int64_t blocks = g.blocks;
  const auto operand = [&](const uint8_t* codes, const float* scales, int64_t rows, int64_t scale_rows) {
    const int64_t tile = scale_rows == rows ? 1 : 128;
    const auto scale = [=](int64_t row, int64_t block) { return scales[row / tile * blocks + block]; };
    return Fp8Operand<decltype(scale)>{codes, g.k, 128, scale};
  };
  const auto a = operand(g.a_codes, g.a_scales, g.m, g.a_scale_rows), b = operand(g.b_codes, g.b_scales, g.n, g.b_scale_rows);
  multiply_floats(c, a, b, g.m, g.n, g.k, 1);
}
EXPORT(gemm_fp8)

static void run_gemm_fp8_tensor(const gemm_fp8_tensor_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const PlainFp8Operand a{g.a_codes, g.k}, b{g.b_codes, g.k};
  multiply_floats(c, a, b, g.m, g.n, g.k, g.a_scale[0] * g.b_scale[0]);
}
EXPORT(gemm_fp8_tensor)
