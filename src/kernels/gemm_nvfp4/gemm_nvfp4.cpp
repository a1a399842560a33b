// The product of gemm_nvfp4.ts in integers: with twice the value of each element, a block's dot product is an integer over 4.
#include "gemm.h"

static void unpack(const uint8_t* codes, int8_t* out, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i++) {
    out[2 * i] = (int8_t)e2m1_doubled(codes[i] & 15);
    out[2 * i + 1] = (int8_t)e2m1_doubled(codes[i] >> 4);
  }
}

static void run_gemm_nvfp4(const gemm_nvfp4_args& g) {
  const int64_t blocks = g.blocks, k = 16 * blocks;
  int8_t* b = static_cast<int8_t*>(scratch(0, g.n * k));
  unpack(g.b_codes, b, g.n * k / 2);
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const float bound = g.a_bound * g.b_bound;
  parallel_rows(g.m, 4, [&](int64_t begin, int64_t end) {
    int8_t* a = static_cast<int8_t*>(scratch(1, k));
    for (int64_t i = begin; i < end; i++) {
      unpack(g.a_codes + i * k / 2, a, k / 2);
      for (int64_t j = 0; j < g.n; j++) {
        float acc = 0;
        for (int64_t block = 0; block < blocks; block++) {
          int dot = 0;
          for (int l = 0; l < 16; l++) dot += a[block * 16 + l] * b[j * k + block * 16 + l];
          acc += e4m3_value(g.a_scales[i * blocks + block]) * e4m3_value(g.b_scales[j * blocks + block]) * (float)dot;
        }
        const float amaxes = g.a_amax[g.a_per_row ? i : 0] * g.b_amax[g.b_per_row ? j : 0];
        c.put(i, j, amaxes / bound * (acc * 0.25f));
      }
    }
  });
}
EXPORT(gemm_nvfp4)
