// Forward and backward of gated_norm.ts. A warp has a slice of a row; sums over it are a tree over its lanes. dw is summed per group of 32
// rows, rows in order, then over the groups.
#include "sums_cuda.h"

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Calls body(row, group) for the slices of this warp.
template <class Args, class Body> __device__ void each_slice(const Args& a, const Body& body) {
  const int64_t warps = (int64_t)gridDim.x * (blockDim.x / 32);
  for (int64_t u = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32; u < a.rows * a.groups; u += warps) body(u / a.groups, u % a.groups);
}

template <class Act> __device__ void gated_norm_slices(const gated_norm_args<Act>& a, void*) {
  const int64_t slice = a.cols / a.groups, lane = threadIdx.x % 32;
  each_slice(a, [&](int64_t r, int64_t g) {
    const Act *const y = a.y + r * a.cols + g * slice, *const z = a.projection + r * a.width + g * slice;
    Act* const out = a.out + r * a.cols + g * slice;
    const float* const w = a.w + g * slice;
    float sum = 0;
    for (int64_t c = lane; c < slice; c += 32) {
      const float gate = load(z + c), v = load(y + c) * gate * sigmoid(gate);
      sum = fmaf(v, v, sum);
    }
    const float inverse = 1.0f / sqrtf(sum_of_warp(sum) / (float)slice + a.eps);
    if (lane == 0) a.inverse[r * a.groups + g] = inverse;
    for (int64_t c = lane; c < slice; c += 32) {
      const float gate = load(z + c);
      store(out + c, load(y + c) * gate * sigmoid(gate) * inverse * w[c]);
    }
  });
}
EXPORT_CUDA_ACT_ENTRY(gated_norm, slices, 256)

static constexpr int64_t group_rows = 32;

// One thread has a column of a group of rows. Before the slices, which may replace what it reads.
template <class Act> __device__ void gated_norm_backward_partial(const gated_norm_backward_args<Act>& a, void* workspace) {
  const int64_t c = blockIdx.y * (int64_t)blockDim.x + threadIdx.x, begin = blockIdx.x * group_rows;
  if (c >= a.cols) return;
  const int64_t end = begin + group_rows < a.rows ? begin + group_rows : a.rows, g = c / (a.cols / a.groups);
  float sum = 0;
  for (int64_t r = begin; r < end; r++) {
    const float gate = load(a.projection + r * a.width + c);
    const float normalised = load(a.y + r * a.cols + c) * gate * sigmoid(gate) * a.inverse[r * a.groups + g];
    sum = fmaf(load(a.dout + r * a.cols + c), normalised, sum);
  }
  static_cast<float*>(workspace)[blockIdx.x * a.cols + c] = sum;
}
EXPORT_CUDA_ACT_ENTRY(gated_norm_backward, partial, 128)

template <class Act> __device__ void gated_norm_backward_dw(const gated_norm_backward_args<Act>& a, void* workspace) {
  each_column_sum(static_cast<const float*>(workspace), (a.rows + group_rows - 1) / group_rows, a.cols,
                  [&](int64_t c, float sum) { a.dw[c] += sum; });
}
EXPORT_CUDA_ACT_ENTRY(gated_norm_backward, dw, 256)

template <class Act> __device__ void gated_norm_backward_slices(const gated_norm_backward_args<Act>& a, void*) {
  const int64_t slice = a.cols / a.groups, lane = threadIdx.x % 32;
  each_slice(a, [&](int64_t r, int64_t g) {
    const int64_t at = r * a.cols + g * slice;
    const Act *const y = a.y + at, *const z = a.projection + r * a.width + g * slice, *const dout = a.dout + at;
    Act *const dy = a.dy + at, *const dz = a.dprojection + r * a.width + g * slice;
    const float* const w = a.w + g * slice;
    const float inverse = a.inverse[r * a.groups + g];
    float dot = 0;
    for (int64_t c = lane; c < slice; c += 32) {
      const float gate = load(z + c), normalised = load(y + c) * gate * sigmoid(gate) * inverse;
      dot = fmaf(load(dout + c) * w[c], normalised, dot);
    }
    const float mean = sum_of_warp(dot) / (float)slice;
    for (int64_t c = lane; c < slice; c += 32) {
      const float gate = load(z + c), s = sigmoid(gate), value = load(y + c);
      const float dv = inverse * (load(dout + c) * w[c] - value * gate * s * inverse * mean), dvalue = dv * gate * s;
      store(dz + c, dv * value * s * (1.0f + gate * (1.0f - s)));
      store(dy + c, a.accumulate ? load(dy + c) + dvalue : dvalue);
    }
  });
}
EXPORT_CUDA_ACT_ENTRY(gated_norm_backward, slices, 256)
