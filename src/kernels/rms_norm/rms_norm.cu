// Forward and backward of rms_norm.ts. A warp has one row; sums over a row are a tree over its lanes. dw is summed per group of rows,
// rows in order, then the groups' partial sums in order.
#include "cuda.h"

__device__ inline float sum_of_warp(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

template <class Act> __device__ void rms_norm(const rms_norm_args<Act>& a) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = (int64_t)gridDim.x * blockDim.x / 32;
  for (int64_t r = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32; r < a.rows; r += warps) {
    const Act* const x = a.x + r * a.cols;
    float sum = 0;
    for (int64_t c = lane; c < a.cols; c += 32) sum = fmaf(load(x + c), load(x + c), sum);
    sum = sum_of_warp(sum);
    const float inverse = 1.0f / sqrtf(sum / (float)a.cols + a.eps);
    if (lane == 0) a.inverse[r] = inverse;
    for (int64_t c = lane; c < a.cols; c += 32) store(a.y + r * a.cols + c, load(x + c) * inverse * a.w[c]);
  }
}
EXPORT_CUDA_ACT(rms_norm)

template <class Act> __device__ void rms_norm_backward_dx(const rms_norm_backward_args<Act>& a, void*) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = (int64_t)gridDim.x * blockDim.x / 32;
  for (int64_t r = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32; r < a.rows; r += warps) {
    const Act *const x = a.x + r * a.cols, *const dy = a.dy + r * a.cols;
    Act* const dx = a.dx + r * a.cols;
    const float inverse = a.inverse[r];
    float dot = 0;
    for (int64_t c = lane; c < a.cols; c += 32) dot = fmaf(load(dy + c) * a.w[c], load(x + c) * inverse, dot);
    const float mean = sum_of_warp(dot) / (float)a.cols;
    for (int64_t c = lane; c < a.cols; c += 32) {
      const float value = inverse * (load(dy + c) * a.w[c] - load(x + c) * inverse * mean);
      store(dx + c, a.accumulate ? load(dx + c) + value : value);
    }
  }
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dx, 256)

static constexpr int64_t group = 32;

// One thread a column of a group of rows.
template <class Act> __device__ void rms_norm_backward_partial(const rms_norm_backward_args<Act>& a, void* workspace) {
  const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, begin = blockIdx.y * group;
  if (c >= a.cols) return;
  const int64_t end = begin + group < a.rows ? begin + group : a.rows;
  float sum = 0;
  for (int64_t r = begin; r < end; r++) sum = fmaf(load(a.dy + r * a.cols + c), load(a.x + r * a.cols + c) * a.inverse[r], sum);
  static_cast<float*>(workspace)[blockIdx.y * a.cols + c] = sum;
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, partial, 128)

// 32 columns a block; its warps have every eighth group, and are added in order.
template <class Act> __device__ void rms_norm_backward_dw(const rms_norm_backward_args<Act>& a, void* workspace) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t c = blockIdx.x * 32 + lane, groups = (a.rows + group - 1) / group;
  const float* const partial = static_cast<const float*>(workspace);
  float sum = 0;
  if (c < a.cols)
    for (int64_t g = warp; g < groups; g += 8) sum += partial[g * a.cols + c];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= a.cols) return;
  float total = a.dw[c];
  for (int w = 0; w < 8; w++) total += sums[w][lane];
  a.dw[c] = total;
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dw, 256)
