// The products of gemm_fp8.ts.
#include "gemm_fp8.h"

static void run_gemm_fp8(const gemm_fp8_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const int64_t blocks = (g.k + 127) / 128;
  const auto operand = [&](const uint8_t* codes, const float* scales, int64_t rows, int64_t lines, int64_t width) {
    const bool of_rows = width == rows && lines == blocks;
    const auto scale = [=](int64_t row, int64_t block) { return scales[of_rows ? block * rows + row : row / 128 * blocks + block]; };
    return Fp8Operand<decltype(scale)>{codes, g.k, 128, scale};
  };
  const auto a = operand(g.a_codes, g.a_scales, g.m, g.a_scale_lines, g.a_scale_width);
  const auto b = operand(g.b_codes, g.b_scales, g.n, g.b_scale_lines, g.b_scale_width);
  multiply_floats(c, a, b, g.m, g.n, g.k, 1);
}
EXPORT(gemm_fp8)

static void run_gemm_fp8_tensor(const gemm_fp8_tensor_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const PlainFp8Operand a{g.a_codes, g.k}, b{g.b_codes, g.k};
  multiply_floats(c, a, b, g.m, g.n, g.k, g.a_scale[0] * g.b_scale[0]);
}
EXPORT(gemm_fp8_tensor)
