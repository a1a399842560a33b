// Forward and backward of conv_silu.ts, in tiles of 64 rows and 512 channels so that a tile's intermediates stay in the cache. The
// backward pass computes du of a tile and of the taps-1 rows after it, which see into it. dweight and dbias are summed per block of
// rows, the blocks' partial sums in order, so that the result does not depend on the number of threads.
//
// Taps are taken four at a time, the usual number, in one loop over channels. Other numbers are filled up with taps of weight zero, which like
// all that a row does not see read a row of zeros.
#include "cpu.h"
#include "elementary.h"
#include <algorithm>

constexpr int64_t row_block = 64, channel_block = 512;

alignas(64) static const float zeros[channel_block] = {};

// What four taps read for one row.
template <class T> using Rows = const T* [4];

// to = start + sum over four taps of weights times rows; consecutive rows of weights lie `stride` apart.
template <class T, class To>
static inline void add_taps(int64_t count, const float* weights, int64_t stride, const Rows<T>& rows, const float* start, To* to) {
  const float *w0 = weights, *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride;
  const T *x0 = rows[0], *x1 = rows[1], *x2 = rows[2], *x3 = rows[3];
#pragma GCC ivdep
  for (int64_t c = 0; c < count; c++) {
    float sum = multiply_add(w0[c], load(x0 + c), start[c]);
    sum = multiply_add(w1[c], load(x1 + c), sum);
    sum = multiply_add(w2[c], load(x2 + c), sum);
    store(to + c, multiply_add(w3[c], load(x3 + c), sum));
  }
}

// Four consecutive rows of sums, `stride` apart, += d times rows.
template <class T> static inline void add_products(int64_t count, const float* d, const Rows<T>& rows, float* sums, int64_t stride) {
  float *s0 = sums, *s1 = s0 + stride, *s2 = s1 + stride, *s3 = s2 + stride;
  const T *x0 = rows[0], *x1 = rows[1], *x2 = rows[2], *x3 = rows[3];
#pragma GCC ivdep
  for (int64_t c = 0; c < count; c++) {
    s0[c] = multiply_add(d[c], load(x0 + c), s0[c]);
    s1[c] = multiply_add(d[c], load(x1 + c), s1[c]);
    s2[c] = multiply_add(d[c], load(x2 + c), s2[c]);
    s3[c] = multiply_add(d[c], load(x3 + c), s3[c]);
  }
}

template <class Args> struct Convolution {
  using Act = std::remove_cv_t<std::remove_pointer_t<decltype(Args::projection)>>;
  const Args& a;
  // Taps with those of weight zero, which come first.
  const int64_t taps;
  // bias, then a row of weights for each tap: contiguous channels, which the loops over channels read.
  float* weights = nullptr;

  explicit Convolution(const Args& a) : a(a), taps((a.taps + 3) / 4 * 4) {}

  // Floats in `weights`, and in one block's sums for dbias and dweight, which are laid out alike.
  int64_t size() const { return (taps + 1) * a.channels; }
  float* of_tap(float* rows, int64_t j) const { return rows + (j + 1) * a.channels; }

  void take_weights(float* memory) {
    weights = memory;
    memset(weights, 0, size() * 4);
    memcpy(weights, a.bias, a.channels * 4);
    for (int64_t j = 0; j < a.taps; j++)
      for (int64_t c = 0; c < a.channels; c++) of_tap(weights, taps - a.taps + j)[c] = a.weight[c * a.taps + j];
  }

  // The rows of x that row r sees through taps j .. j+3.
  void seen(int64_t r, int64_t j, int64_t first, Rows<Act>& rows) const {
    const int64_t visible = std::min(r % a.sequence - a.starts[r], a.taps - 1);
    for (int64_t i = 0; i < 4; i++) {
      const int64_t back = taps - 1 - j - i;
      rows[i] = back > visible ? reinterpret_cast<const Act*>(zeros) : a.projection + (r - back) * a.width + a.offset + first;
    }
  }

  // u of row r for `count` channels from `first`.
  void convolve(int64_t r, int64_t first, int64_t count, float* u) const {
    for (int64_t j = 0; j < taps; j += 4) {
      Rows<Act> rows;
      seen(r, j, first, rows);
      add_taps(count, of_tap(weights, j) + first, a.channels, rows, j == 0 ? weights + first : u, u);
    }
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

template <class Act> static void conv_silu(const conv_silu_args<Act>& a) {
  Convolution convolution(a);
  convolution.take_weights(static_cast<float*>(scratch(0, convolution.size() * 4)));
  convolution.tiles([&](int64_t begin, int64_t end, int64_t first, int64_t count) {
    float u[channel_block];
    for (int64_t r = begin; r < end; r++) {
      convolution.convolve(r, first, count, u);
      Act* y = a.y + r * a.channels + first;
#pragma GCC ivdep
      for (int64_t c = 0; c < count; c++) store(y + c, fast_silu(u[c]));
    }
  });
}
EXPORT_ACT(conv_silu)

template <class Act> static void conv_silu_backward(const conv_silu_backward_args<Act>& a) {
  Convolution convolution(a);
  const int64_t taps = convolution.taps, size = convolution.size(), blocks = (a.rows + row_block - 1) / row_block;
  float* memory = static_cast<float*>(scratch(0, (blocks + 1) * size * 4));
  convolution.take_weights(memory);
  // Per block of rows: dbias, then dweight of each tap.
  float* partial = memory + size;
  convolution.tiles([&](int64_t begin, int64_t end, int64_t first, int64_t count) {
    float* gradients = static_cast<float*>(scratch(1, (row_block + taps) * channel_block * 4));
    float* sums = partial + begin / row_block * size + first;
    for (int64_t j = 0; j <= taps; j++) memset(sums + j * a.channels, 0, count * 4);
    const int64_t seeing = std::min(a.rows, end + a.taps - 1);
    for (int64_t r = begin; r < seeing; r++) {
      float* du = gradients + (r - begin) * channel_block;
      float u[channel_block];
      convolution.convolve(r, first, count, u);
      const Act* dy = a.dy + r * a.channels + first;
      const float counted = r < end ? 1.0f : 0.0f;
#pragma GCC ivdep
      for (int64_t c = 0; c < count; c++) {
        const float s = fast_sigmoid(u[c]);
        du[c] = load(dy + c) * s * (1.0f + u[c] * (1.0f - s));
        sums[c] += counted * du[c];
      }
      if (r >= end) continue;
      for (int64_t j = 0; j < taps; j += 4) {
        Rows<Act> rows;
        convolution.seen(r, j, first, rows);
        add_products(count, du, rows, convolution.of_tap(sums, j), a.channels);
      }
    }
    for (int64_t q = begin; q < end; q++) {
      const int64_t position = q % a.sequence;
      Act* out = a.dprojection + q * a.width + a.offset + first;
      float dx[channel_block];
      for (int64_t j = 0; j < taps; j += 4) {
        Rows<float> rows;
        for (int64_t i = 0; i < 4; i++) {
          const int64_t ahead = taps - 1 - j - i, r = q + ahead;
          const bool sees = ahead < a.taps && position + ahead < a.sequence && a.starts[r] <= position;
          rows[i] = sees ? gradients + (r - begin) * channel_block : zeros;
        }
        const float *w = convolution.of_tap(convolution.weights, j) + first, *start = j == 0 ? zeros : dx;
        if (j + 4 < taps) add_taps(count, w, a.channels, rows, start, dx);
        else add_taps(count, w, a.channels, rows, start, out);
      }
    }
  });
  parallel_rows(a.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = 0; block < blocks; block++) {
      float* sums = partial + block * size;
      for (int64_t c = begin; c < end; c++) {
        a.dbias[c] += sums[c];
        for (int64_t j = 0; j < a.taps; j++) a.dweight[c * a.taps + j] += convolution.of_tap(sums, taps - a.taps + j)[c];
      }
    }
  });
}
EXPORT_ACT(conv_silu_backward)
