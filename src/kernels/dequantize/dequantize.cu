// dequantize_*: contracts in dequantize.ts. One thread per pair of elements.
#include "cuda.h"
#include "quantize.h"

__device__ inline void put(void* y, int64_t is_bf16, int64_t at, float value) {
  if (is_bf16) store(static_cast<bf16*>(y) + at, value);
  else store(static_cast<float*>(y) + at, value);
}

// scale(r, block) is the whole scale of a block.
template <class E, class A, class Scale> __device__ void dequantize(const A& a, int64_t block, const Scale& scale) {
  GRID_LOOP(pair, a.rows * a.cols / 2) {
    const int64_t at = 2 * pair, r = at / a.cols, c = at % a.cols;
    const uint32_t first = E::bits == 4 ? a.codes[pair] & 15u : a.codes[at];
    const uint32_t second = E::bits == 4 ? a.codes[pair] >> 4 : a.codes[at + 1];
    const float s = scale(r, c / block);
    put(a.y, a.y_is_bf16, at, decode<One, E>(first) * s);
    put(a.y, a.y_is_bf16, at + 1, decode<One, E>(second) * s);
  }
}

__device__ void run_dequantize_nvfp4(const dequantize_nvfp4_args& a) {
  const float inverse = 1.0f / a.bound;
  const int64_t across = a.cols / 16;
  dequantize<E2M1>(a, 16, [&](int64_t r, int64_t block) {
    const float scale = decode<One, E4M3>(a.scales[r * across + block]);
    return a.outer == 0 ? scale : scale * a.amax[a.outer == 2 ? r : 0] * inverse;
  });
}
EXPORT_CUDA(dequantize_nvfp4)

__device__ void run_dequantize_mxfp4(const dequantize_mxfp4_args& a) {
  dequantize<E2M1>(a, 32, [&](int64_t r, int64_t block) { return ue8m0_value(a.scales[r * (a.cols / 32) + block]); });
}
EXPORT_CUDA(dequantize_mxfp4)

__device__ void run_dequantize_mxfp8(const dequantize_mxfp8_args& a) {
  dequantize<E4M3>(a, 32, [&](int64_t r, int64_t block) { return ue8m0_value(a.scales[r * (a.cols / 32) + block]); });
}
EXPORT_CUDA(dequantize_mxfp8)

__device__ void run_dequantize_fp8(const dequantize_fp8_args& a) {
  const bool block_by_block = a.scale_width == a.rows && a.scale_lines == (a.cols + 127) / 128;
  dequantize<E4M3>(a, 128, [&](int64_t r, int64_t block) { return a.scales[block_by_block ? block * a.rows + r : r / 128 * a.scale_width + block]; });
}
EXPORT_CUDA(dequantize_fp8)

__device__ void run_dequantize_fp8_tensor(const dequantize_fp8_tensor_args& a) {
  dequantize<E4M3>(a, a.cols, [&](int64_t, int64_t) { return a.scales[0]; });
}
EXPORT_CUDA(dequantize_fp8_tensor)
