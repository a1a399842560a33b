// gemm.ts: what surrounds the products of cuBLASLt.
#include "gemm_cuda.h"

template <class A> __device__ void cast_a(const A& g, void* workspace) {
  cast_operand(g.a, g.a_is_bf16, ProductSpace(workspace, g.m, g.n, g.k).a, g.m * g.k);
}
template <class A> __device__ void cast_b(const A& g, void* workspace) {
  cast_operand(g.b, g.b_is_bf16, ProductSpace(workspace, g.m, g.n, g.k).b, g.n * g.k);
}
template <class A> __device__ void finish(const A& g, void* workspace) {
  const float* const sums = ProductSpace(workspace, g.m, g.n, g.k).c;
  finish_product(g.c, g.c_is_bf16, g.accumulate, sums, g.m, g.n, [](int64_t, int64_t) { return 1.0f; });
}

#define PARTS(name)                                                                                                       \
  __device__ void run_##name##_cast_a(const name##_args& g, void* workspace) { cast_a(g, workspace); }                      \
  __device__ void run_##name##_cast_b(const name##_args& g, void* workspace) { cast_b(g, workspace); }                      \
  __device__ void run_##name##_finish(const name##_args& g, void* workspace) { finish(g, workspace); }
PARTS(gemm_nt)
PARTS(gemm_nn)
PARTS(gemm_tn)
PARTS(gemm_tt)

EXPORT_CUDA_ENTRY(gemm_nt, cast_a, 256)
EXPORT_CUDA_ENTRY(gemm_nt, cast_b, 256)
EXPORT_CUDA_ENTRY(gemm_nt, finish, 256)
EXPORT_CUDA_ENTRY(gemm_nn, cast_a, 256)
EXPORT_CUDA_ENTRY(gemm_nn, cast_b, 256)
EXPORT_CUDA_ENTRY(gemm_nn, finish, 256)
EXPORT_CUDA_ENTRY(gemm_tn, cast_a, 256)
EXPORT_CUDA_ENTRY(gemm_tn, cast_b, 256)
EXPORT_CUDA_ENTRY(gemm_tn, finish, 256)
EXPORT_CUDA_ENTRY(gemm_tt, cast_a, 256)
EXPORT_CUDA_ENTRY(gemm_tt, cast_b, 256)
EXPORT_CUDA_ENTRY(gemm_tt, finish, 256)
