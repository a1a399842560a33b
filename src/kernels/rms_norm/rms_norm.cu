// Forward and backward of rms_norm.ts. Where a row is made of eights a thread has eight of its columns, for all rows of its block: their weights
// and their share of dw stay in registers, and rows are loaded several at once. Other rows are read element by element. A sum over a row is a
// tree over the lanes of a warp, then over warps in order; dw is summed per group of 32 rows, rows in order, then over the groups.
#include "sums_cuda.h"

static constexpr int64_t group = 32;
// The most warps of a block with eights.
static constexpr int most_warps = 16;

// Sums of each of n values over a block. Calls that follow one another must use `parts` of two places in turn.
template <int n> __device__ void sums_of_block(float (&x)[n], float (*parts)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) x[i] = sum_of_warp(x[i]);
  const int warps = blockDim.x / 32;
  if (warps == 1) return;
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int i = 0; i < n; i++) parts[threadIdx.x / 32][i] = x[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; i++) x[i] = parts[0][i];
  for (int w = 1; w < warps; w++)
#pragma unroll
    for (int i = 0; i < n; i++) x[i] += parts[w][i];
}

// Stores eight elements; returns them as they will be loaded.
__device__ inline Eight stored_eight(float* to, const Eight& x) {
  store_eight(to, x);
  return x;
}
__device__ inline Eight stored_eight(bf16* to, const Eight& x) {
  const uint4 words =
      make_uint4(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]), pack_bf16(x.v[4], x.v[5]), pack_bf16(x.v[6], x.v[7]));
  *reinterpret_cast<uint4*>(to) = words;
  return unpack_eight(words);
}

__device__ inline float inverse_of(float squares, int64_t cols, float eps) { return 1.0f / sqrtf(squares / (float)cols + eps); }

template <class Act> __device__ void rms_norm_eights(const rms_norm_args<Act>& a, void*) {
  constexpr int rows = 4;
  __shared__ float parts[most_warps][rows];
  const int64_t first = blockIdx.x * (int64_t)rows, at = first * a.cols + threadIdx.x * 8;
  const bool mine = threadIdx.x * 8 < a.cols;
  Packed<Act> xs[rows] = {}, branches[rows] = {};
#pragma unroll
  for (int i = 0; i < rows; i++)
    if (mine && first + i < a.rows) {
      xs[i].load_from(a.x + at + i * a.cols);
      if (a.branch) branches[i].load_from(a.branch + at + i * a.cols);
    }
  Eight x[rows];
  float squares[rows] = {};
#pragma unroll
  for (int i = 0; i < rows; i++) {
    x[i] = xs[i].get();
    if (a.branch && mine && first + i < a.rows) {
      const Eight branch = branches[i].get();
#pragma unroll
      for (int k = 0; k < 8; k++) x[i].v[k] += branch.v[k];
      x[i] = stored_eight(a.sum + at + i * a.cols, x[i]);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) squares[i] = fmaf(x[i].v[k], x[i].v[k], squares[i]);
  }
  sums_of_block(squares, parts);
  Eight w{};
  if (a.y && mine) w = load_eight(a.w + threadIdx.x * 8);
#pragma unroll
  for (int i = 0; i < rows; i++) {
    if (first + i >= a.rows) break;
    const float inverse = inverse_of(squares[i], a.cols, a.eps);
    if (threadIdx.x == 0) a.inverse[first + i] = inverse;
    if (!a.y || !mine) continue;
#pragma unroll
    for (int k = 0; k < 8; k++) x[i].v[k] = x[i].v[k] * inverse * w.v[k];
    store_eight(a.y + at + i * a.cols, x[i]);
  }
}
EXPORT_CUDA_ACT_ENTRY(rms_norm, eights, 512)

// A warp has a row.
template <class Act> __device__ void rms_norm_rows(const rms_norm_args<Act>& a, void*) {
  const int lane = threadIdx.x % 32;
  const int64_t r = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
  if (r >= a.rows) return;
  const Act* x = a.x + r * a.cols;
  if (a.branch) {
    const Act* const branch = a.branch + r * a.cols;
    Act* const sum = a.sum + r * a.cols;
    for (int64_t c = lane; c < a.cols; c += 32) store(sum + c, load(x + c) + load(branch + c));
    x = sum;
  }
  float squares = 0;
  for (int64_t c = lane; c < a.cols; c += 32) squares = fmaf(load(x + c), load(x + c), squares);
  const float inverse = inverse_of(sum_of_warp(squares), a.cols, a.eps);
  if (lane == 0) a.inverse[r] = inverse;
  if (!a.y) return;
  Act* const y = a.y + r * a.cols;
  for (int64_t c = lane; c < a.cols; c += 32) store(y + c, load(x + c) * inverse * a.w[c]);
}
EXPORT_CUDA_ACT_ENTRY(rms_norm, rows, 256)

// A block has a group of rows.
template <class Act> __device__ void rms_norm_backward_eights(const rms_norm_backward_args<Act>& a, void* workspace) {
  // FP32 takes twice the registers.
  constexpr int rows = sizeof(Act) == 2 ? 4 : 2;
  __shared__ float parts[2][most_warps][rows];
  const int64_t c = threadIdx.x * 8, begin = blockIdx.x * group, end = begin + group < a.rows ? begin + group : a.rows;
  const bool mine = c < a.cols;
  Eight w{}, sums{};
  if (mine) w = load_eight(a.w + c);
  int turn = 0;
  for (int64_t first = begin; first < end; first += rows, turn ^= 1) {
    const int64_t at = first * a.cols + c;
    Packed<Act> xs[rows] = {}, gs[rows] = {}, before[rows] = {};
    float inverse[rows] = {}, dots[rows] = {};
#pragma unroll
    for (int i = 0; i < rows; i++) {
      if (!mine || first + i >= end) continue;
      xs[i].load_from(a.x + at + i * a.cols);
      gs[i].load_from(a.dy + at + i * a.cols);
      if (a.accumulate) before[i].load_from(a.dx + at + i * a.cols);
      inverse[i] = a.inverse[first + i];
    }
#pragma unroll
    for (int i = 0; i < rows; i++) {
      const Eight x = xs[i].get(), g = gs[i].get();
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float n = x.v[k] * inverse[i];
        dots[i] = fmaf(g.v[k] * w.v[k], n, dots[i]);
        sums.v[k] = fmaf(g.v[k], n, sums.v[k]);
      }
    }
    sums_of_block(dots, parts[turn]);
#pragma unroll
    for (int i = 0; i < rows; i++) {
      if (!mine || first + i >= end) continue;
      const float mean = dots[i] / (float)a.cols;
      const Eight x = xs[i].get(), g = gs[i].get(), old = before[i].get();
      Eight out;
#pragma unroll
      for (int k = 0; k < 8; k++) {
        const float value = inverse[i] * (g.v[k] * w.v[k] - x.v[k] * inverse[i] * mean);
        out.v[k] = a.accumulate ? old.v[k] + value : value;
      }
      store_eight(a.dx + at + i * a.cols, out);
    }
  }
  if (mine) store_eight(static_cast<float*>(workspace) + blockIdx.x * a.cols + c, sums);
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, eights, 512)

// A warp has a row.
template <class Act> __device__ void rms_norm_backward_dx(const rms_norm_backward_args<Act>& a, void*) {
  const int lane = threadIdx.x % 32;
  const int64_t r = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
  if (r >= a.rows) return;
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
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dx, 256)

// A thread has a column of a group of rows.
template <class Act> __device__ void rms_norm_backward_partial(const rms_norm_backward_args<Act>& a, void* workspace) {
  const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, begin = blockIdx.y * group;
  if (c >= a.cols) return;
  const int64_t end = begin + group < a.rows ? begin + group : a.rows;
  float sum = 0;
#pragma unroll 4
  for (int64_t r = begin; r < end; r++) sum = fmaf(load(a.dy + r * a.cols + c), load(a.x + r * a.cols + c) * a.inverse[r], sum);
  static_cast<float*>(workspace)[blockIdx.y * a.cols + c] = sum;
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, partial, 64)

template <class Act> __device__ void rms_norm_backward_dw(const rms_norm_backward_args<Act>& a, void* workspace) {
  each_column_sum<32>(static_cast<const float*>(workspace), (a.rows + group - 1) / group, a.cols,
                      [&](int64_t c, float sum) { a.dw[c] += sum; });
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dw, 1024)
