// Forward and backward of conv_silu.ts, in tiles of 64 rows and 512 channels so that a tile's intermediates stay in the cache. The
// backward pass computes du of a tile and of the taps-1 rows after it, which see into it. dweight and dbias are summed per block of
// rows, the blocks' partial sums in order, so that the result does not depend on the number of threads.
//
// Four taps, the usual number, are compiled with their loops unrolled; `Taps` is 0 for any other number.
#include "cpu.h"
#include "elementary.h"
#include <algorithm>

constexpr int64_t row_block = 64, channel_block = 512;

template <class Args> struct Convolution {
  using Act = std::remove_cv_t<std::remove_pointer_t<decltype(Args::projection)>>;
  const Args& a;
  // bias, then a row of weights for each tap: contiguous channels, which the loops over channels read.
  float* weights;
  // What a row sees before its document begins.
  Act zeros[channel_block] = {};

  Convolution(const Args& a, float* memory) : a(a), weights(memory) {
    memcpy(weights, a.bias, a.channels * 4);
    for (int64_t j = 0; j < a.taps; j++)
      for (int64_t c = 0; c < a.channels; c++) weights[(j + 1) * a.channels + c] = a.weight[c * a.taps + j];
  }

  const float* weight(int64_t j, int64_t first) const { return weights + (j + 1) * a.channels + first; }
  const float* bias(int64_t first) const { return weights + first; }

  // The row that tap j of row r reads.
  const Act* seen(int64_t r, int64_t j, int64_t first) const {
    const int64_t back = a.taps - 1 - j;
    return r % a.sequence - back < a.starts[r] ? zeros : a.projection + (r - back) * a.width + a.offset + first;
  }

  template <class Body> void tiles(const Body& body) const {
    const int64_t across = (a.channels + channel_block - 1) / channel_block;
    const int64_t down = (a.rows + row_block - 1) / row_block;
    parallel_for(across * down, [&](int64_t task) {
      const int64_t begin = task / across * row_block, first = task % across * channel_block;
      body(begin, std::min(a.rows, begin + row_block), first, std::min(channel_block, a.channels - first));
    });
  }
};

// u += weights of one tap times the row it reads.
template <class Act> static inline void add_tap(int64_t count, const float* __restrict w, const Act* __restrict x, float* __restrict u) {
  for (int64_t c = 0; c < count; c++) u[c] = multiply_add(w[c], load(x + c), u[c]);
}

template <class Args> static inline void convolve(const Convolution<Args>& v, int64_t r, int64_t first, int64_t count, float* u) {
  const auto& a = v.a;
  if (a.taps != 4) {
    memcpy(u, v.bias(first), count * 4);
    for (int64_t j = 0; j < a.taps; j++) add_tap(count, v.weight(j, first), v.seen(r, j, first), u);
    return;
  }
  const auto *x0 = v.seen(r, 0, first), *x1 = v.seen(r, 1, first), *x2 = v.seen(r, 2, first), *x3 = v.seen(r, 3, first);
  const float *w0 = v.weight(0, first), *w1 = v.weight(1, first), *w2 = v.weight(2, first), *w3 = v.weight(3, first);
  const float* bias = v.bias(first);
#pragma GCC ivdep
  for (int64_t c = 0; c < count; c++) {
    float sum = multiply_add(w0[c], load(x0 + c), bias[c]);
    sum = multiply_add(w1[c], load(x1 + c), sum);
    sum = multiply_add(w2[c], load(x2 + c), sum);
    u[c] = multiply_add(w3[c], load(x3 + c), sum);
  }
}

template <class Act> static void conv_silu(const conv_silu_args<Act>& a) {
  const Convolution v(a, static_cast<float*>(scratch(0, (a.taps + 1) * a.channels * 4)));
  v.tiles([&](int64_t begin, int64_t end, int64_t first, int64_t count) {
    float u[channel_block];
    for (int64_t r = begin; r < end; r++) {
      convolve(v, r, first, count, u);
      Act* y = a.y + r * a.channels + first;
      for (int64_t c = 0; c < count; c++) store(y + c, fast_silu(u[c]));
    }
  });
}
EXPORT_ACT(conv_silu)

// dw += du * x
template <class Act> static inline void add_product(int64_t count, const float* __restrict du, const Act* __restrict x, float* __restrict dw) {
  for (int64_t c = 0; c < count; c++) dw[c] = multiply_add(du[c], load(x + c), dw[c]);
}

template <class Act> static void conv_silu_backward(const conv_silu_backward_args<Act>& a) {
  const int64_t blocks = (a.rows + row_block - 1) / row_block, size = (a.taps + 1) * a.channels;
  float* memory = static_cast<float*>(scratch(0, (blocks + 1) * size * 4));
  const Convolution v(a, memory);
  // Per block of rows: dbias, then dweight of each tap.
  float* partial = memory + size;
  v.tiles([&](int64_t begin, int64_t end, int64_t first, int64_t count) {
    float* gradients = static_cast<float*>(scratch(1, (row_block + a.taps - 1) * channel_block * 4));
    float* sums = partial + begin / row_block * size + first;
    for (int64_t j = 0; j <= a.taps; j++) memset(sums + j * a.channels, 0, count * 4);
    const int64_t seeing = std::min(a.rows, end + a.taps - 1);
    for (int64_t r = begin; r < seeing; r++) {
      float* du = gradients + (r - begin) * channel_block;
      float u[channel_block];
      convolve(v, r, first, count, u);
      const Act* dy = a.dy + r * a.channels + first;
#pragma GCC ivdep
      for (int64_t c = 0; c < count; c++) {
        const float s = fast_sigmoid(u[c]);
        du[c] = load(dy + c) * s * (1.0f + u[c] * (1.0f - s));
      }
      if (r >= end) continue;
#pragma GCC ivdep
      for (int64_t c = 0; c < count; c++) sums[c] += du[c];
      for (int64_t j = 0; j < a.taps; j++) add_product(count, du, v.seen(r, j, first), sums + (j + 1) * a.channels);
    }
    for (int64_t q = begin; q < end; q++) {
      float dx[channel_block] = {};
      const int64_t position = q % a.sequence;
      for (int64_t j = 0; j < a.taps; j++) {
        const int64_t ahead = a.taps - 1 - j, r = q + ahead;
        if (position + ahead >= a.sequence || a.starts[r] > position) continue;
        add_tap(count, v.weight(j, first), gradients + (r - begin) * channel_block, dx);
      }
      Act* out = a.dprojection + q * a.width + a.offset + first;
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
