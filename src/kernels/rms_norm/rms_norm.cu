// Forward and backward of rms_norm.ts. Forward, where a row is made of eights, a thread has eight of its columns and loads them of several rows at
// once; else a warp has a row. Sums over a row are trees over the lanes of a warp, then over warps in order. dw is summed per group of rows, rows in
// order, then the groups' partial sums in order.
#include "sums_cuda.h"

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

// body(c) by the lanes of a warp for every eighth column of a row.
template <class Body> __device__ void each_eight(int64_t cols, const Body& body) {
  for (int64_t c = threadIdx.x % 32 * 8; c < cols; c += 256) body(c);
}

template <class Act> __device__ bool rows_in_eights(int64_t cols, const Act* x, const Act* y, const float* w) {
  return cols % 8 == 0 && in_sixteens(x, y, w);
}

template <class Act> __device__ void rms_norm_backward_dx(const rms_norm_backward_args<Act>& a, void*) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = (int64_t)gridDim.x * blockDim.x / 32;
  const bool eights = rows_in_eights(a.cols, a.x, a.dy, a.w) && in_sixteens(a.dx);
  for (int64_t r = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32; r < a.rows; r += warps) {
    const Act *const x = a.x + r * a.cols, *const dy = a.dy + r * a.cols;
    Act* const dx = a.dx + r * a.cols;
    const float inverse = a.inverse[r];
    float dot = 0;
    if (eights) each_eight(a.cols, [&](int64_t c) {
        const Eight e = load_eight(x + c), g = load_eight(dy + c), w = load_eight(a.w + c);
        for (int i = 0; i < 8; i++) dot = fmaf(g.v[i] * w.v[i], e.v[i] * inverse, dot);
      });
    else for (int64_t c = lane; c < a.cols; c += 32) dot = fmaf(load(dy + c) * a.w[c], load(x + c) * inverse, dot);
    const float mean = sum_of_warp(dot) / (float)a.cols;
    if (eights) each_eight(a.cols, [&](int64_t c) {
        const Eight e = load_eight(x + c), g = load_eight(dy + c), w = load_eight(a.w + c);
        Eight out{};
        if (a.accumulate) out = load_eight((const Act*)dx + c);
        for (int i = 0; i < 8; i++) {
          const float value = inverse * (g.v[i] * w.v[i] - e.v[i] * inverse * mean);
          out.v[i] = a.accumulate ? out.v[i] + value : value;
        }
        store_eight(dx + c, out);
      });
    else for (int64_t c = lane; c < a.cols; c += 32) {
        const float value = inverse * (load(dy + c) * a.w[c] - load(x + c) * inverse * mean);
        store(dx + c, a.accumulate ? load(dx + c) + value : value);
      }
  }
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dx, 256)

static constexpr int64_t group = 32;

// One thread has eight columns of a group of rows.
template <class Act> __device__ void rms_norm_backward_partial(const rms_norm_backward_args<Act>& a, void* workspace) {
  const int64_t c = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * 8, begin = blockIdx.y * group;
  if (c >= a.cols) return;
  const int64_t end = begin + group < a.rows ? begin + group : a.rows;
  float* const to = static_cast<float*>(workspace) + blockIdx.y * a.cols + c;
  float sums[8] = {};
  if (rows_in_eights(a.cols, a.x, a.dy, static_cast<const float*>(workspace))) {
#pragma unroll 4
    for (int64_t r = begin; r < end; r++) {
      const Eight g = load_eight(a.dy + r * a.cols + c), e = load_eight(a.x + r * a.cols + c);
      const float inverse = a.inverse[r];
      for (int i = 0; i < 8; i++) sums[i] = fmaf(g.v[i], e.v[i] * inverse, sums[i]);
    }
    store_eight(to, Eight{{sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7]}});
    return;
  }
  for (int i = 0; i < 8 && c + i < a.cols; i++) {
    for (int64_t r = begin; r < end; r++)
      sums[i] = fmaf(load(a.dy + r * a.cols + c + i), load(a.x + r * a.cols + c + i) * a.inverse[r], sums[i]);
    to[i] = sums[i];
  }
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, partial, 64)

// Both at once for rows of up to 8192 columns in eights, which are read once: a row is spread over one warp of a block or several, which keep up to four
// eights a lane in registers; a block has a group of rows, whose sums are added in the order of the rows that it has at a time.
static constexpr int most_eights = 4;

template <class Act> __device__ void rms_norm_backward_group(const rms_norm_backward_args<Act>& a, void* workspace) {
  __shared__ __align__(16) float totals[8 * 256 * most_eights];
  __shared__ float dots[2][8];
  const int cols = (int)a.cols;
  int across = 1;
  while (across * 256 * most_eights < cols) across *= 2;
  const int lanes = 32 * across, lane = threadIdx.x % lanes, number = threadIdx.x / lanes, numbers = 8 / across;
  const int64_t begin = blockIdx.x * group, end = begin + group < a.rows ? begin + group : a.rows;
  Eight sums[most_eights] = {};
  int turn = 0;
  for (int64_t r = begin + number; r < end; r += numbers) {
    const Act *const x = a.x + r * a.cols, *const dy = a.dy + r * a.cols;
    Act* const dx = a.dx + r * a.cols;
    const float inverse = a.inverse[r];
    Packed<Act> xs[most_eights], gs[most_eights];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < most_eights; k++) {
      const int c = 8 * (lanes * k + lane);
      if (c >= cols) continue;
      xs[k].load_from(x + c);
      gs[k].load_from(dy + c);
    }
#pragma unroll
    for (int k = 0; k < most_eights; k++) {
      const int c = 8 * (lanes * k + lane);
      if (c >= cols) continue;
      const Eight e = xs[k].get(), g = gs[k].get(), w = load_eight(a.w + c);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float product = g.v[i] * e.v[i];
        dot = fmaf(product, w.v[i], dot);
        sums[k].v[i] = fmaf(product, inverse, sums[k].v[i]);
      }
    }
    dot = sum_of_warp(dot);
    if (across > 1) {
      if (threadIdx.x % 32 == 0) dots[turn][threadIdx.x / 32] = dot;
      asm volatile("bar.sync %0, %1;" ::"r"(number + 1), "r"(lanes) : "memory");
      dot = 0;
      for (int w = 0; w < across; w++) dot += dots[turn][number * across + w];
      turn ^= 1;
    }
    const float slope = -inverse * inverse * inverse * dot / (float)a.cols;
#pragma unroll
    for (int k = 0; k < most_eights; k++) {
      const int c = 8 * (lanes * k + lane);
      if (c >= cols) continue;
      const Eight e = xs[k].get(), g = gs[k].get(), w = load_eight(a.w + c);
      Eight out{};
      if (a.accumulate) out = load_eight((const Act*)dx + c);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float value = fmaf(e.v[i], slope, g.v[i] * w.v[i] * inverse);
        out.v[i] = a.accumulate ? out.v[i] + value : value;
      }
      store_eight(dx + c, out);
    }
  }
#pragma unroll
  for (int k = 0; k < most_eights; k++)
    if (const int c = 8 * (lanes * k + lane); c < cols) store_eight(totals + number * cols + c, sums[k]);
  __syncthreads();
  float* const to = static_cast<float*>(workspace) + blockIdx.x * a.cols;
  for (int c = threadIdx.x; c < cols; c += 256) {
    float sum = totals[c];
    for (int n = 1; n < numbers; n++) sum += totals[n * cols + c];
    to[c] = sum;
  }
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, group, 256, 2)

// 32 columns a block; its warps have every eighth group, and are added in order.
template <class Act> __device__ void rms_norm_backward_dw(const rms_norm_backward_args<Act>& a, void* workspace) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t c = blockIdx.x * 32 + lane, groups = (a.rows + group - 1) / group;
  const float* const partial = static_cast<const float*>(workspace);
  float sum = 0;
  if (c < a.cols)
#pragma unroll 8
    for (int64_t g = warp; g < groups; g += 8) sum += partial[g * a.cols + c];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= a.cols) return;
  float total = a.dw[c];
  for (int w = 0; w < 8; w++) total += sums[w][lane];
  a.dw[c] = total;
}
EXPORT_CUDA_ACT_ENTRY(rms_norm_backward, dw, 256)
