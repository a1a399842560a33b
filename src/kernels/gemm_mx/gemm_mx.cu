// gemm_mx.ts. An element times a power of two is exact in BF16, whose exponents are those of FP32.
#include "gemm_cuda.h"

template <class E> __device__ void expand(const uint8_t* codes, const uint8_t* scales, void* to, int64_t rows, int64_t blocks) {
  if (E::bits == 4) {
    expand_sixteens(codes, static_cast<bf16*>(to), rows * blocks * 2, [=](int64_t group) { return ue8m0_value(scales[group / 2]); });
    return;
  }
  const auto scale = [=](int64_t row, int64_t column) { return ue8m0_value(scales[row * blocks + column / 32]); };
  expand_codes<E, bf16>(codes, to, rows, 32 * blocks, scale);
}
template <class E, class A> __device__ void expand_a(const A& g, void* workspace) {
  expand<E>(g.a_codes, g.a_scales, ProductSpace(workspace, g.m, g.n, 32 * g.blocks).a, g.m, g.blocks);
}
template <class E, class A> __device__ void expand_b(const A& g, void* workspace) {
  expand<E>(g.b_codes, g.b_scales, ProductSpace(workspace, g.m, g.n, 32 * g.blocks).b, g.n, g.blocks);
}

__device__ void run_gemm_mxfp4_expand_a(const gemm_mxfp4_args& g, void* workspace) { expand_a<E2M1>(g, workspace); }
EXPORT_CUDA_ENTRY(gemm_mxfp4, expand_a, 256)
__device__ void run_gemm_mxfp4_expand_b(const gemm_mxfp4_args& g, void* workspace) { expand_b<E2M1>(g, workspace); }
EXPORT_CUDA_ENTRY(gemm_mxfp4, expand_b, 256)
__device__ void run_gemm_mxfp8_expand_a(const gemm_mxfp8_args& g, void* workspace) { expand_a<E4M3>(g, workspace); }
EXPORT_CUDA_ENTRY(gemm_mxfp8, expand_a, 256)
__device__ void run_gemm_mxfp8_expand_b(const gemm_mxfp8_args& g, void* workspace) { expand_b<E4M3>(g, workspace); }
EXPORT_CUDA_ENTRY(gemm_mxfp8, expand_b, 256)
