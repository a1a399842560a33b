// Sums in a fixed order: over the lanes of a warp as a tree, over the rows of a matrix in interleaved parts.
#pragma once
#include "cuda.h"

template <class Real> __device__ Real sum_of_warp(Real x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

// The sum of column c of partial[rows, columns], for c = 32 * blockIdx.x + threadIdx.x % 32 in a block of so many warps: body(c, sum) is called
// once for each column.
template <int warps = 8, class Body> __device__ void each_column_sum(const float* partial, int64_t rows, int64_t columns, const Body& body) {
  __shared__ float sums[warps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t c = blockIdx.x * (int64_t)32 + lane;
  float sum = 0;
  if (c < columns)
#pragma unroll 8
    for (int64_t r = warp; r < rows; r += warps) sum += partial[r * columns + c];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= columns) return;
  for (int w = 1; w < warps; w++) sum += sums[w][lane];
  body(c, sum);
}
