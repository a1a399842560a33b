// Forward and backward of conv_silu.ts, in tiles of 64 rows and 256 channels so that a tile's intermediates stay in the cache. The
// backward pass computes du of a tile and of the taps-1 rows after it, which see into it. dweight and dbias are summed per block of
// rows, the blocks' partial sums in order, so that the result does not depend on the number of threads.
#include "cpu.h"
#include "elementary.h"
#include <algorithm>

constexpr int64_t row_block = 64, channel_block = 256;

// bias, then one row of `channels` weights for each tap: rows of contiguous channels, which the loops over channels read.
template <class Args> static void transpose_weights(const Args& a, float* rows) {
  memcpy(rows, a.bias, a.channels * 4);
  for (int64_t j = 0; j < a.taps; j++)
    for (int64_t c = 0; c < a.channels; c++) rows[(j + 1) * a.channels + c] = a.weight[c * a.taps + j];
}

// u of row r for `count` channels from `first`.
template <class Args>
static inline void convolve(const Args& a, const float* weights, int64_t r, int64_t first, int64_t count, float* __restrict u) {
  const int64_t visible = r % a.sequence - a.starts[r];
  memcpy(u, weights + first, count * 4);
  for (int64_t j = std::max<int64_t>(0, a.taps - 1 - visible); j < a.taps; j++) {
    const float* __restrict w = weights + (j + 1) * a.channels + first;
    const auto* __restrict x = a.projection + (r - (a.taps - 1) + j) * a.width + a.offset + first;
    for (int64_t c = 0; c < count; c++) u[c] += w[c] * load(x + c);
  }
}

template <class Args, class Body> static void tiles(const Args& a, const Body& body) {
  const int64_t across = (a.channels + channel_block - 1) / channel_block;
  const int64_t down = (a.rows + row_block - 1) / row_block;
  parallel_for(across * down, [&](int64_t task) {
    const int64_t block = task / across, first = task % across * channel_block;
    body(block, std::min(a.rows, (block + 1) * row_block), first, std::min(channel_block, a.channels - first));
  });
}

template <class Act> static void conv_silu(const conv_silu_args<Act>& a) {
  float* weights = static_cast<float*>(scratch(0, (a.taps + 1) * a.channels * 4));
  transpose_weights(a, weights);
  tiles(a, [&](int64_t block, int64_t end, int64_t first, int64_t count) {
    float u[channel_block];
    for (int64_t r = block * row_block; r < end; r++) {
      convolve(a, weights, r, first, count, u);
      Act* __restrict y = a.y + r * a.channels + first;
      for (int64_t c = 0; c < count; c++) store(y + c, u[c] * fast_sigmoid(u[c]));
    }
  });
}
EXPORT_ACT(conv_silu)

template <class Act> static void conv_silu_backward(const conv_silu_backward_args<Act>& a) {
  const int64_t blocks = (a.rows + row_block - 1) / row_block, size = (a.taps + 1) * a.channels;
  float* weights = static_cast<float*>(scratch(0, (blocks + 1) * size * 4));
  float* partial = weights + size;
  transpose_weights(a, weights);
  tiles(a, [&](int64_t block, int64_t end, int64_t first, int64_t count) {
    const int64_t begin = block * row_block, seeing = std::min(a.rows, end + a.taps - 1);
    float* gradients = static_cast<float*>(scratch(1, (row_block + a.taps - 1) * channel_block * 4));
    float* sums = partial + block * size + first;
    for (int64_t j = 0; j <= a.taps; j++) memset(sums + j * a.channels, 0, count * 4);
    for (int64_t r = begin; r < seeing; r++) {
      float* __restrict du = gradients + (r - begin) * channel_block;
      float u[channel_block];
      convolve(a, weights, r, first, count, u);
      const Act* __restrict dy = a.dy + r * a.channels + first;
      for (int64_t c = 0; c < count; c++) {
        const float s = fast_sigmoid(u[c]);
        du[c] = load(dy + c) * s * (1.0f + u[c] * (1.0f - s));
      }
      if (r >= end) continue;
      float* __restrict db = sums;
      for (int64_t c = 0; c < count; c++) db[c] += du[c];
      const int64_t visible = r % a.sequence - a.starts[r];
      for (int64_t j = std::max<int64_t>(0, a.taps - 1 - visible); j < a.taps; j++) {
        const Act* __restrict x = a.projection + (r - (a.taps - 1) + j) * a.width + a.offset + first;
        float* __restrict dw = sums + (j + 1) * a.channels;
        for (int64_t c = 0; c < count; c++) dw[c] += du[c] * load(x + c);
      }
    }
    for (int64_t q = begin; q < end; q++) {
      float dx[channel_block];
      memset(dx, 0, sizeof dx);
      const int64_t position = q % a.sequence;
      for (int64_t j = 0; j < a.taps; j++) {
        const int64_t ahead = a.taps - 1 - j, r = q + ahead;
        if (position + ahead >= a.sequence || r >= a.rows || a.starts[r] > position) continue;
        const float* __restrict w = weights + (j + 1) * a.channels + first;
        const float* __restrict du = gradients + (r - begin) * channel_block;
        for (int64_t c = 0; c < count; c++) dx[c] += w[c] * du[c];
      }
      Act* __restrict out = a.dprojection + q * a.width + a.offset + first;
      for (int64_t c = 0; c < count; c++) store(out + c, dx[c]);
    }
  });
  parallel_rows(a.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = 0; block < blocks; block++) {
      const float* sums = partial + block * size;
      for (int64_t c = begin; c < end; c++) {
        a.dbias[c] += sums[c];
        for (int64_t j = 0; j < a.taps; j++) a.dweight[c * a.taps + j] += sums[(j + 1) * a.channels + c];
      }
    }
  });
}
EXPORT_ACT(conv_silu_backward)
