// gemm_nvfp4.ts. An element times its block scale has at most 6 significant bits, so it is exact in BF16; the tensor scales are applied to
// the sums.
#include "gemm_cuda.h"
#include "swizzle.h"

__device__ inline ProductSpace space(const gemm_nvfp4_args& g, void* workspace) {
  return ProductSpace(workspace, g.m, g.n, 16 * g.blocks);
}

__device__ inline void expand(const uint8_t* codes, const uint8_t* scales, void* to, int64_t rows, int64_t blocks) {
  expand_sixteens(codes, static_cast<bf16*>(to), rows * blocks, [=](int64_t group) { return decode<One, E4M3>(scales[group]); });
}

__device__ void run_gemm_nvfp4_expand_a(const gemm_nvfp4_args& g, void* workspace) {
  expand(g.a_codes, g.a_scales, space(g, workspace).a, g.m, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, expand_a, 256)

__device__ void run_gemm_nvfp4_expand_b(const gemm_nvfp4_args& g, void* workspace) {
  expand(g.b_codes, g.b_scales, space(g, workspace).b, g.n, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, expand_b, 256)

// Scales for tensor cores that read the codes themselves, padded with zeros.
__device__ inline void arrange(const uint8_t* scales, void* to, int64_t rows, int64_t blocks) {
  const int64_t across = (blocks + 3) / 4 * 4, down = (rows + 127) / 128 * 128;
  GRID_LOOP(i, down * across) {
    const int64_t r = i / across, c = i % across;
    static_cast<uint8_t*>(to)[swizzle_offset(r, c, blocks)] = r < rows && c < blocks ? scales[r * blocks + c] : 0;
  }
}

__device__ void run_gemm_nvfp4_arrange_a(const gemm_nvfp4_args& g, void* workspace) {
  arrange(g.a_scales, space(g, workspace).a, g.m, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, arrange_a, 256)
__device__ void run_gemm_nvfp4_arrange_b(const gemm_nvfp4_args& g, void* workspace) {
  arrange(g.b_scales, space(g, workspace).b, g.n, g.blocks);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, arrange_b, 256)

__device__ void run_gemm_nvfp4_factor(const gemm_nvfp4_args& g, void* workspace) {
  if (threadIdx.x == 0) space(g, workspace).factor[0] = g.a_amax[0] * g.b_amax[0] / (g.a_bound * g.b_bound);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, factor, 32)

__device__ void run_gemm_nvfp4_finish(const gemm_nvfp4_args& g, void* workspace) {
  const float bound = g.a_bound * g.b_bound;
  const auto scale = [&](int64_t i, int64_t j) { return g.a_amax[g.a_per_row ? i : 0] * g.b_amax[g.b_per_row ? j : 0] / bound; };
  finish_product(g.c, g.c_is_bf16, g.accumulate, space(g, workspace).c, g.m, g.n, scale);
}
EXPORT_CUDA_ENTRY(gemm_nvfp4, finish, 256)
