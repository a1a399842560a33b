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

// Scales [rows, blocks] of one operand, of its rows or of square tiles, for cuBLASLt: src/tensor/cuda.ts, ScaleLayout. A block of threads brings 32 x 32
// of them where they belong.
struct Arranged {
  const float* scales;
  char* to;
  int64_t rows, blocks;
  bool of_rows;

  __device__ bool lie_so() const { return !of_rows && blocks % 4 == 0; }
  __device__ int64_t pieces() const { return lie_so() ? 0 : (rows + 31) / 32 * ((blocks + 31) / 32); }
  __device__ void arrange(int64_t piece) const {
    __shared__ float values[32][33];
    float* const out = reinterpret_cast<float*>(to);
    const int64_t across = (blocks + 31) / 32, pitch = (blocks + 3) / 4 * 4, row = piece / across * 32, block = piece % across * 32;
    const int x = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < 32; i += 8) values[i][x] = row + i < rows && block + x < blocks ? scales[(row + i) * blocks + block + x] : 0.0f;
    __syncthreads();
    for (int i = threadIdx.x / 32; i < 32; i += 8)
      if (of_rows) {
        if (block + i < blocks && row + x < rows) out[(block + i) * rows + row + x] = values[x][i];
      } else if (row + i < rows && block + x < pitch) {
        out[(row + i) * pitch + block + x] = values[i][x];
      }
  }
};

__device__ void run_gemm_fp8_arrange(const gemm_fp8_args& g, void* workspace) {
  const ProductSpace to = space(g, workspace);
  const Arranged a{g.a_scales, to.a, g.a_scale_rows, g.blocks, g.a_scale_rows == g.m};
  const Arranged b{g.b_scales, to.b, g.b_scale_rows, g.blocks, g.b_scale_rows == g.n};
  const int64_t piece = blockIdx.x, of_a = a.pieces();
  if (piece < of_a) a.arrange(piece);
  else b.arrange(piece - of_a);
}
EXPORT_CUDA_ENTRY(gemm_fp8, arrange, 256)

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
