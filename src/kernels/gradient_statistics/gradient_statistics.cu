// gradient_statistics.ts. A block measures one piece of 65,536 elements, four of them a load; then a block adds the pieces of a segment. Which pieces
// are a segment's, all threads of a block find at once. Sums are over threads, then as a tree: their order follows from the sizes alone.
#include "cuda.h"

struct Found {
  double squares;
  float largest;
  int32_t infinite, nonzero;
};

// In groups of 16 elements, and the first of its pieces.
struct Segment {
  int64_t from, to;
  int32_t first;
};

static constexpr int64_t piece_groups = 4096;
static constexpr int threads = 256;

__device__ inline Found sum_of(const Found& a, const Found& b) {
  return {a.squares + b.squares, b.largest > a.largest ? b.largest : a.largest, a.infinite + b.infinite, a.nonzero + b.nonzero};
}

// Over all threads of a block; the first has the sum.
__device__ Found sum_of_block(const Found& mine) {
  __shared__ Found found[threads];
  found[threadIdx.x] = mine;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) found[threadIdx.x] = sum_of(found[threadIdx.x], found[threadIdx.x + half]);
  }
  return found[0];
}

// The one segment of which wanted(its number, its first piece, how many pieces) is true; its first piece is -1 if none is.
template <class Wanted> __device__ Segment find_segment(const gradient_statistics_args& a, const Wanted& wanted) {
  __shared__ int32_t totals[threads / 32];
  __shared__ Segment found;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) found.first = -1;
  int32_t before = 0;
  for (int64_t base = 0; base < a.segments; base += threads) {
    const int64_t s = base + threadIdx.x;
    const bool exists = s < a.segments;
    const int64_t from = exists && s > 0 ? a.ends[s - 1] : 0, to = exists ? a.ends[s] : 0;
    const int32_t pieces = (int32_t)((to - from + piece_groups - 1) / piece_groups);
    int32_t sum = pieces;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int32_t lower = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += lower;
    }
    __syncthreads();
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    int32_t first = before + sum - pieces;
    for (int w = 0; w < threads / 32; w++) {
      if (w < warp) first += totals[w];
      before += totals[w];
    }
    if (exists && wanted(s, first, pieces)) found = {from, to, first};
  }
  __syncthreads();
  return found;
}

__device__ inline void measure(Found& mine, float x) {
  const bool finite = (bits_of(x) & 0x7f800000u) != 0x7f800000u;
  const float magnitude = finite ? fabsf(x) : 0.0f;
  mine.squares = fma((double)magnitude, (double)magnitude, mine.squares);
  mine.largest = magnitude > mine.largest ? magnitude : mine.largest;
  mine.infinite += finite ? 0 : 1;
  mine.nonzero += x != 0.0f ? 1 : 0;
}

__device__ void run_gradient_statistics_measure(const gradient_statistics_args& a, void* workspace) {
  const int32_t piece = blockIdx.x;
  const Segment segment =
      find_segment(a, [&](int64_t, int32_t first, int32_t pieces) { return piece >= first && piece < first + pieces; });
  if (segment.first < 0) return;
  const int64_t from = segment.from + (piece - segment.first) * piece_groups;
  const int64_t to = segment.to < from + piece_groups ? segment.to : from + piece_groups;
  const float4* const g = reinterpret_cast<const float4*>(a.g);
  Found mine{0, 0, 0, 0};
#pragma unroll 4
  for (int64_t i = from * 4 + threadIdx.x; i < to * 4; i += threads) {
    const float4 x = g[i];
    measure(mine, x.x);
    measure(mine, x.y);
    measure(mine, x.z);
    measure(mine, x.w);
  }
  const Found sum = sum_of_block(mine);
  if (threadIdx.x == 0) static_cast<Found*>(workspace)[piece] = sum;
}
EXPORT_CUDA_ENTRY(gradient_statistics, measure, 256)

__device__ void run_gradient_statistics_add(const gradient_statistics_args& a, void* workspace) {
  const Segment segment = find_segment(a, [&](int64_t s, int32_t, int32_t) { return s == blockIdx.x; });
  const Found* const pieces = static_cast<const Found*>(workspace) + segment.first;
  const int64_t count = (segment.to - segment.from + piece_groups - 1) / piece_groups;
  Found mine{0, 0, 0, 0};
  for (int64_t i = threadIdx.x; i < count; i += threads) mine = sum_of(mine, pieces[i]);
  const Found sum = sum_of_block(mine);
  if (threadIdx.x != 0) return;
  float* const out = a.statistics + 4 * (int64_t)blockIdx.x;
  out[0] = (float)sum.squares, out[1] = sum.largest, out[2] = (float)sum.infinite, out[3] = (float)sum.nonzero;
}
EXPORT_CUDA_ENTRY(gradient_statistics, add, 256)
