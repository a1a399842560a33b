// The products of gemm.ts: all layouts and dtypes pack into the same FP32 panels.
#include "cpu.h"

static float value_at(const void* data, int64_t is_bf16, int64_t i, bool round) {
  const float x = is_bf16 ? load(static_cast<const bf16*>(data) + i) : load(static_cast<const float*>(data) + i);
  return round ? round_bf16(x) : x;
}

template <class Args> static void product(const Args& g, int64_t a_row, int64_t a_k, int64_t b_k, int64_t b_col) {
  parallel_rows(g.m, 8, [&](int64_t begin, int64_t end) {
    float* row = static_cast<float*>(scratch(0, g.n * 4));
    for (int64_t i = begin; i < end; i++) {
      for (int64_t j = 0; j < g.n; j++) row[j] = 0;
      for (int64_t l = 0; l < g.k; l++) {
        const float x = value_at(g.a, g.a_is_bf16, i * a_row + l * a_k, g.round);
        for (int64_t j = 0; j < g.n; j++) row[j] += x * value_at(g.b, g.b_is_bf16, l * b_k + j * b_col, g.round);
      }
      for (int64_t j = 0; j < g.n; j++) {
        const int64_t at = i * g.n + j;
        if (g.c_is_bf16) {
          bf16* c = static_cast<bf16*>(g.c) + at;
          store(c, g.accumulate ? load(c) + row[j] : row[j]);
        } else {
          float* c = static_cast<float*>(g.c) + at;
          store(c, g.accumulate ? load(c) + row[j] : row[j]);
        }
      }
    }
  });
}

static void run_gemm_nt(const gemm_nt_args& g) { product(g, g.k, 1, 1, g.k); }
static void run_gemm_nn(const gemm_nn_args& g) { product(g, g.k, 1, g.n, 1); }
static void run_gemm_tn(const gemm_tn_args& g) { product(g, 1, g.m, g.n, 1); }
static void run_gemm_tt(const gemm_tt_args& g) { product(g, 1, g.m, 1, g.k); }
EXPORT(gemm_nt)
EXPORT(gemm_nn)
EXPORT(gemm_tn)
EXPORT(gemm_tt)
