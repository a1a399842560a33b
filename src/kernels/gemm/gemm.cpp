// The products of gemm.ts: all layouts and dtypes pack into the same FP32 panels.
#include "gemm_float.h"

namespace {

struct Operand {
  const void* data;
  bool is_bf16;
  bool round;
  int64_t row_stride, column_stride;

  template <int width> void pack(int64_t first, int64_t rows, int64_t l, int64_t k, float* panels, int64_t stride) const {
    const int64_t at = first * row_stride + l * column_stride;
    const bf16* halves = static_cast<const bf16*>(data) + at;
    const float* floats = static_cast<const float*>(data) + at;
    if (is_bf16) pack_panels<ReadBf16, width>(halves, row_stride, column_stride, rows, k, panels, stride);
    else if (round) pack_panels<ReadRounded, width>(floats, row_stride, column_stride, rows, k, panels, stride);
    else pack_panels<ReadFloat, width>(floats, row_stride, column_stride, rows, k, panels, stride);
  }
};

template <class Args>
void run(const Args& g, int64_t a_row, int64_t a_column, int64_t b_row, int64_t b_column) {
  const Output c{g.c, g.c_is_bf16 != 0, g.n, g.accumulate != 0};
  const Operand a{g.a, g.a_is_bf16 != 0, g.round != 0, a_row, a_column}, b{g.b, g.b_is_bf16 != 0, g.round != 0, b_row, b_column};
  multiply_floats(c, a, b, g.m, g.n, g.k, 1);
}

}  // namespace

static void run_gemm_nt(const gemm_nt_args& g) { run(g, g.k, 1, g.k, 1); }
static void run_gemm_nn(const gemm_nn_args& g) { run(g, g.k, 1, 1, g.n); }
static void run_gemm_tn(const gemm_tn_args& g) { run(g, 1, g.m, 1, g.n); }
static void run_gemm_tt(const gemm_tt_args& g) { run(g, 1, g.m, g.k, 1); }
EXPORT(gemm_nt)
EXPORT(gemm_nn)
EXPORT(gemm_tn)
EXPORT(gemm_tt)
