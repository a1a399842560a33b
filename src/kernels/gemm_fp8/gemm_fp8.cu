// gemm_fp8.ts. An element times an FP32 scale is not exact in BF16, so products with block scales are of FP32 matrices; with one scale for the
// tensor, elements alone are multiplied, which are exact in BF16.
#include "gemm_cuda.h"

__device__ inline ProductSpace space(const gemm_fp8_args& g, void* workspace) { return ProductSpace(workspace, g.m, g.n, g.k); }

// Scales of one operand as they lie: of blocks of its rows, block by block, or of square tiles.
struct Fp8Scales {
  const float* scales;
  int64_t rows, blocks;
  bool of_rows;

  __device__ Fp8Scales(const float* scales, int64_t rows, int64_t k, int64_t lines, int64_t width)
      : scales(scales), rows(rows), blocks((k + 127) / 128), of_rows(width == rows && lines == blocks) {}
  __device__ float of(int64_t row, int64_t column) const {
    const int64_t block = column / 128;
    return scales[of_rows ? block * rows + row : row / 128 * blocks + block];
  }
  __device__ void expand(const uint8_t* codes, void* to, int64_t k) const {
    expand_codes<E4M3, float>(codes, to, rows, k, [this](int64_t row, int64_t column) { return of(row, column); });
  }
  // Those of tiles for cuBLASLt, whose rows are padded to multiples of four: src/tensor/cuda.ts, ScaleLayout.
  __device__ void pad(char* to) const {
    const int64_t pitch = (blocks + 3) / 4 * 4, lines = (rows + 127) / 128;
    GRID_LOOP(i, lines * pitch) reinterpret_cast<float*>(to)[i] = i % pitch < blocks ? scales[i / pitch * blocks + i % pitch] : 0.0f;
  }
};

__device__ inline Fp8Scales scales_of_a(const gemm_fp8_args& g) { return Fp8Scales(g.a_scales, g.m, g.k, g.a_scale_lines, g.a_scale_width); }
__device__ inline Fp8Scales scales_of_b(const gemm_fp8_args& g) { return Fp8Scales(g.b_scales, g.n, g.k, g.b_scale_lines, g.b_scale_width); }

__device__ void run_gemm_fp8_pad_a(const gemm_fp8_args& g, void* workspace) { scales_of_a(g).pad(space(g, workspace).a); }
EXPORT_CUDA_ENTRY(gemm_fp8, pad_a, 256)
__device__ void run_gemm_fp8_pad_b(const gemm_fp8_args& g, void* workspace) { scales_of_b(g).pad(space(g, workspace).b); }
EXPORT_CUDA_ENTRY(gemm_fp8, pad_b, 256)

__device__ void run_gemm_fp8_expand_a(const gemm_fp8_args& g, void* workspace) { scales_of_a(g).expand(g.a_codes, space(g, workspace).a, g.k); }
EXPORT_CUDA_ENTRY(gemm_fp8, expand_a, 256)
__device__ void run_gemm_fp8_expand_b(const gemm_fp8_args& g, void* workspace) { scales_of_b(g).expand(g.b_codes, space(g, workspace).b, g.k); }
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
