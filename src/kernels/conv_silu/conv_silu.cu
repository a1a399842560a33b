// Forward and backward of conv_silu.ts. A thread has a channel of 64 consecutive rows. The backward pass computes du of them and of the taps-1
// rows after them, which see into them, and keeps it in shared memory. dweight and dbias are summed per thread, rows in order, then over
// the blocks of rows.
#include "sums_cuda.h"

static constexpr int64_t block_rows = 64;
static constexpr int channels_per_block = 128;

// Position of a row in its sequence; division of 32 bits is several times faster than that of 64.
template <class Args> __device__ int64_t position_of(const Args& a, int64_t r) { return (uint32_t)r % (uint32_t)a.sequence; }

// u of row r for channel c. Four taps, the usual number, are unrolled.
template <class Args> __device__ float convolved(const Args& a, int64_t r, int64_t c) {
  const int64_t visible = position_of(a, r) - a.starts[r];
  const auto* const x = a.projection + r * a.width + a.offset + c;
  const float* const w = a.weight + c * a.taps;
  float u = a.bias[c];
  if (a.taps == 4) {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (3 - j <= visible) u = fmaf(w[j], load(x - (3 - j) * a.width), u);
    return u;
  }
  for (int64_t j = 0; j < a.taps; j++) {
    const int64_t back = a.taps - 1 - j;
    if (back <= visible) u = fmaf(w[j], load(x - back * a.width), u);
  }
  return u;
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class Act> __device__ void conv_silu_rows(const conv_silu_args<Act>& a, void*) {
  const int64_t c = blockIdx.y * (int64_t)channels_per_block + threadIdx.x, begin = blockIdx.x * block_rows;
  if (c >= a.channels) return;
  const int64_t end = begin + block_rows < a.rows ? begin + block_rows : a.rows;
  for (int64_t r = begin; r < end; r++) {
    const float u = convolved(a, r, c);
    store(a.y + r * a.channels + c, u * sigmoid(u));
  }
}
EXPORT_CUDA_ACT_ENTRY(conv_silu, rows, 128)

// The workspace holds, per block of rows, a row of dbias and a row of dweight for each tap.
template <class Act> __device__ void conv_silu_backward_rows(const conv_silu_backward_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  // [row of the block][thread]; each thread reads its own.
  float* const du = reinterpret_cast<float*>(shared_memory) + threadIdx.x;
  const int64_t c = blockIdx.y * (int64_t)channels_per_block + threadIdx.x, begin = blockIdx.x * block_rows;
  if (c >= a.channels) return;
  const int64_t end = begin + block_rows < a.rows ? begin + block_rows : a.rows;
  const int64_t seeing = end + a.taps - 1 < a.rows ? end + a.taps - 1 : a.rows;
  float* const sums = static_cast<float*>(workspace) + blockIdx.x * (a.taps + 1) * a.channels + c;
  const float* const w = a.weight + c * a.taps;

  float bias = 0;
  for (int64_t r = begin; r < seeing; r++) {
    const float u = convolved(a, r, c), s = sigmoid(u);
    const float d = load(a.dy + r * a.channels + c) * s * (1.0f + u * (1.0f - s));
    du[(r - begin) * channels_per_block] = d;
    if (r < end) bias += d;
  }
  sums[0] = bias;
  for (int64_t j = 0; j < a.taps; j++) {
    const int64_t back = a.taps - 1 - j;
    float sum = 0;
    for (int64_t r = begin; r < end; r++)
      if (back <= position_of(a, r) - a.starts[r])
        sum = fmaf(du[(r - begin) * channels_per_block], load(a.projection + (r - back) * a.width + a.offset + c), sum);
    sums[(j + 1) * a.channels] = sum;
  }
  for (int64_t q = begin; q < end; q++) {
    const int64_t position = position_of(a, q);
    float dx = 0;
    for (int64_t ahead = 0; ahead < a.taps && position + ahead < a.sequence; ahead++)
      if (a.starts[q + ahead] <= position) dx = fmaf(w[a.taps - 1 - ahead], du[(q + ahead - begin) * channels_per_block], dx);
    store(a.dprojection + q * a.width + a.offset + c, dx);
  }
}
EXPORT_CUDA_ACT_ENTRY(conv_silu_backward, rows, 128)

template <class Act> __device__ void conv_silu_backward_parameters(const conv_silu_backward_args<Act>& a, void* workspace) {
  each_column_sum(static_cast<const float*>(workspace), (a.rows + block_rows - 1) / block_rows, (a.taps + 1) * a.channels,
                  [&](int64_t i, float sum) {
                    const int64_t j = i / a.channels, c = i % a.channels;
                    if (j == 0) a.dbias[c] += sum;
                    else a.dweight[c * a.taps + j - 1] += sum;
                  });
}
EXPORT_CUDA_ACT_ENTRY(conv_silu_backward, parameters, 256)
