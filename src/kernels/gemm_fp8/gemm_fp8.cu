// gemm_fp8.ts. An element times an FP32 scale is not exact in BF16, so products with block scales are of FP32 matrices; with one scale for the
// tensor, elements alone are multiplied, which are exact in BF16.
#include "gemm_cuda.h"

__device__ inline ProductSpace space(const gemm_fp8_args& g, void* workspace) { return ProductSpace(workspace, g.m, g.n, g.k); }

__device__ inline void expand(const uint8_t* codes, const float* scales, void* to, int64_t rows, int64_t k, int64_t scale_rows,
                              int64_t blocks) {
  const int64_t tile = scale_rows == rows ? 1 : 128;
  const auto scale = [=](int64_t row, int64_t column) { return scales[row / tile * blocks + column / 128]; };
  expand_codes<E4M3, float>(codes, to, rows, k, scale);
}

// Scales as cuBLASLt reads them: src/tensor/cuda.ts, ScaleLayout.
__device__ inline void arrange(const float* scales, void* to, int64_t rows, int64_t scale_rows, int64_t blocks) {
  float* const out = static_cast<float*>(to);
  if (scale_rows == rows) GRID_LOOP(i, rows * blocks) out[i] = scales[i % rows * blocks + i / rows];
  else {
    const int64_t pitch = (blocks + 3) / 4 * 4;
    GRID_LOOP(i, scale_rows * pitch) out[i] = i % pitch < blocks ? scales[i / pitch * blocks + i % pitch] : 0.0f;
  }
}

__device__ void run_gemm_fp8_arrange_a(const gemm_fp8_args& g, void* workspace) {
  arrange(g.a_scales, space(g, workspace).a, g.m, g.a_scale_rows, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_fp8, arrange_a, 256)
__device__ void run_gemm_fp8_arrange_b(const gemm_fp8_args& g, void* workspace) {
  arrange(g.b_scales, space(g, workspace).b, g.n, g.b_scale_rows, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_fp8, arrange_b, 256)

__device__ void run_gemm_fp8_expand_a(const gemm_fp8_args& g, void* workspace) {
  expand(g.a_codes, g.a_scales, space(g, workspace).a, g.m, g.k, g.a_scale_rows, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_fp8, expand_a, 256)

__device__ void run_gemm_fp8_expand_b(const gemm_fp8_args& g, void* workspace) {
  expand(g.b_codes, g.b_scales, space(g, workspace).b, g.n, g.k, g.b_scale_rows, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_fp8, expand_b, 256)

__device__ void run_gemm_fp8_finish(const gemm_fp8_args& g, void* workspace) {
  const auto one = [](int64_t, int64_t) { return 1.0f; };
  finish_product(g.c, g.c_is_bf16, g.accumulate, space(g, workspace).c, g.m, g.n, one);
}
EXPORT_CUDA_ENTRY(gemm_fp8, finish, 256)

__device__ void run_gemm_fp8_tensor_expand_a(const gemm_fp8_tensor_args& g, void* workspace) {
  expand_codes<E4M3, bf16>(g.a_codes, ProductSpace(workspace, g.m, g.n, g.k).a, g.m, g.k, [](int64_t, int64_t) { return 1.0f; });
}
EXPORT_CUDA_ENTRY(gemm_fp8_tensor, expand_a, 256)

__device__ void run_gemm_fp8_tensor_expand_b(const gemm_fp8_tensor_args& g, void* workspace) {
  expand_codes<E4M3, bf16>(g.b_codes, ProductSpace(workspace, g.m, g.n, g.k).b, g.n, g.k, [](int64_t, int64_t) { return 1.0f; });
}
EXPORT_CUDA_ENTRY(gemm_fp8_tensor, expand_b, 256)

__device__ void run_gemm_fp8_tensor_factor(const gemm_fp8_tensor_args& g, void* workspace) {
  if (threadIdx.x == 0) ProductSpace(workspace, g.m, g.n, g.k).factor[0] = g.a_scale[0] * g.b_scale[0];
}
EXPORT_CUDA_ENTRY(gemm_fp8_tensor, factor, 32)
