// The products of gemm_mx.ts.
#include "gemm_fp4.h"

static void run_gemm_mxfp4(const gemm_mxfp4_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const CodedOperand a{g.a_codes, g.a_scales, g.m, g.blocks}, b{g.b_codes, g.b_scales, g.n, g.blocks};
  multiply_fp4<Mxfp4>(c, a, b, [](int64_t, int64_t, int64_t count, const float* acc, float* y) {
    for (int64_t j = 0; j < count; j++) y[j] = acc[j] * 0.25f;
  });
}
EXPORT(gemm_mxfp4)

static void run_gemm_mxfp8(const gemm_mxfp8_args& g) {
  const int64_t blocks = g.blocks;
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  parallel_rows(g.m, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t j = 0; j < g.n; j++) {
        float acc = 0;
        for (int64_t block = 0; block < blocks; block++) {
          const uint8_t* a = g.a_codes + (i * blocks + block) * 32;
          const uint8_t* b = g.b_codes + (j * blocks + block) * 32;
          float dot = 0;
          for (int l = 0; l < 32; l++) dot += e4m3_value(a[l]) * e4m3_value(b[l]);
          acc += ue8m0_value(g.a_scales[i * blocks + block]) * (ue8m0_value(g.b_scales[j * blocks + block]) * dot);
        }
        c.put(i, j, acc);
      }
  });
}
EXPORT(gemm_mxfp8)
