// Products of FP32 matrices that lie in shared memory, computed by a block of 128 threads: what attention and the chunked state space are made of
// where activations are FP32. A tile of the result is 64 x N accumulators; each thread has 8 rows and N/16 columns of it, by fused multiply-adds.
#pragma once
#include "cuda.h"

static constexpr int TILE = 64, TILE_THREADS = 128;

// A matrix in shared memory, with rows one element longer so that neither rows nor columns fall on few banks.
template <int Rows, int Cols> struct SharedMatrix {
  static constexpr int pitch = Cols + 1, bytes = Rows * pitch * 4;
  float* data;

  __device__ explicit SharedMatrix(void* memory) : data(static_cast<float*>(memory)) {}
  __device__ float* at(int r, int c) const { return data + r * pitch + c; }
  __device__ void put(int r, int c, float x) const { *at(r, c) = x; }

  // The leading rows and columns from global memory, zeros elsewhere. All threads; no barrier.
  __device__ void load_from(const float* from, int64_t stride, int64_t rows, int64_t cols) const {
#pragma unroll 4
    for (int u = threadIdx.x; u < Rows * Cols; u += TILE_THREADS) {
      const int r = u / Cols, c = u % Cols;
      if (r < rows && c < cols) *at(r, c) = from[r * stride + c];
      else store(at(r, c), 0.0f);
    }
  }

  // The same, each multiplied by factor(r).
  template <class Factor> __device__ void put_from(const float* from, int64_t stride, int64_t rows, int64_t cols, const Factor& factor) const {
#pragma unroll 4
    for (int u = threadIdx.x; u < Rows * Cols; u += TILE_THREADS) {
      const int r = u / Cols, c = u % Cols;
      put(r, c, r < rows && c < cols ? factor(r) * load(from + r * stride + c) : 0.0f);
    }
  }
};

// Whether an operand of a product lies in shared memory as its formula has it or with rows and columns exchanged.
enum Stored { AsIs, Transposed };

template <int N> struct Tile {
  // Rows and columns of a thread; so many lanes in sequence share its rows.
  static constexpr int rows = 8, cols = N / 16, lanes = 16;
  float v[rows][cols];

  __device__ static int row(int i) { return (int)threadIdx.x / 16 + 8 * i; }
  __device__ static int col(int j) { return (int)threadIdx.x % 16 + 16 * j; }

  // += a[64, K] b[K, N].
  template <int K, Stored StoredA, Stored StoredB, class A, class B> __device__ void multiply(const A& a, const B& b) {
#pragma unroll 4
    for (int k = 0; k < K; k++) {
      float x[rows], y[cols];
#pragma unroll
      for (int i = 0; i < rows; i++) x[i] = StoredA == AsIs ? *a.at(row(i), k) : *a.at(k, row(i));
#pragma unroll
      for (int j = 0; j < cols; j++) y[j] = StoredB == AsIs ? *b.at(k, col(j)) : *b.at(col(j), k);
#pragma unroll
      for (int i = 0; i < rows; i++)
#pragma unroll
        for (int j = 0; j < cols; j++) v[i][j] = fmaf(x[i], y[j], v[i][j]);
    }
  }
};

template <int N> __device__ void clear(Tile<N>& tile) {
#pragma unroll
  for (int i = 0; i < tile.rows; i++)
#pragma unroll
    for (int j = 0; j < tile.cols; j++) tile.v[i][j] = 0;
}

// body(i, j, row, column) for every accumulator v[i][j] of the thread.
template <int N, class Body> __device__ void each(const Tile<N>& tile, const Body& body) {
#pragma unroll
  for (int i = 0; i < tile.rows; i++)
#pragma unroll
    for (int j = 0; j < tile.cols; j++) body(i, j, tile.row(i), tile.col(j));
}

// Leading rows and columns of a tile to global memory, added to what is there if `accumulate`.
template <int N>
__device__ void write_rows(const Tile<N>& tile, float* to, int64_t stride, int64_t rows, int64_t cols, bool accumulate) {
  each(tile, [&](int i, int j, int r, int c) {
    if (r >= rows || c >= cols) return;
    float* const out = to + r * stride + c;
    *out = accumulate ? *out + tile.v[i][j] : tile.v[i][j];
  });
}

// Sum and maximum over the lanes that share a row of a tile; all of them get it.
__device__ inline float sum_of_row(float x) {
#pragma unroll
  for (int step = Tile<TILE>::lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ inline float largest_of_row(float x) {
#pragma unroll
  for (int step = Tile<TILE>::lanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
