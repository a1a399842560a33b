// The products of gemm_fp8.ts.
#include "gemm.h"

static void run_gemm_fp8(const gemm_fp8_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const int64_t a_tile = g.a_scale_rows == g.m ? 1 : 128, b_tile = g.b_scale_rows == g.n ? 1 : 128;
  parallel_rows(g.m, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t j = 0; j < g.n; j++) {
        float acc = 0;
        for (int64_t block = 0; block < g.blocks; block++) {
          const int64_t last = block * 128 + 128 < g.k ? block * 128 + 128 : g.k;
          float partial = 0;
          for (int64_t l = block * 128; l < last; l++)
            partial += e4m3_value(g.a_codes[i * g.k + l]) * e4m3_value(g.b_codes[j * g.k + l]);
          acc += g.a_scales[i / a_tile * g.blocks + block] * g.b_scales[j / b_tile * g.blocks + block] * partial;
        }
        c.put(i, j, acc);
      }
  });
}
EXPORT(gemm_fp8)

static void run_gemm_fp8_tensor(const gemm_fp8_tensor_args& g) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const float alpha = g.a_scale[0] * g.b_scale[0];
  parallel_rows(g.m, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t j = 0; j < g.n; j++) {
        float sum = 0;
        for (int64_t l = 0; l < g.k; l++) sum += e4m3_value(g.a_codes[i * g.k + l]) * e4m3_value(g.b_codes[j * g.k + l]);
        c.put(i, j, alpha * sum);
      }
  });
}
EXPORT(gemm_fp8_tensor)
