// gradient_statistics.ts. A block measures one piece of 65,536 elements; which segment a piece belongs to, blocks find by counting pieces. The
// pieces of a segment are then added in order, those within a piece in the fixed order of a tree.
#include "cuda.h"

struct Found {
  double squares;
  float largest;
  int32_t infinite, nonzero;
};

static constexpr int64_t piece_groups = 4096;
static constexpr int threads = 256;

__device__ inline int64_t pieces_of(int64_t groups) { return (groups + piece_groups - 1) / piece_groups; }

__device__ inline Found sum_of(const Found& a, const Found& b) {
  return {a.squares + b.squares, b.largest > a.largest ? b.largest : a.largest, a.infinite + b.infinite, a.nonzero + b.nonzero};
}

__device__ void run_gradient_statistics_measure(const gradient_statistics_args& a, void* workspace) {
  __shared__ Found found[threads];
  int64_t piece = blockIdx.x, from = 0, to = 0;
  for (int64_t s = 0; s < a.segments; s++) {
    to = a.ends[s];
    const int64_t pieces = pieces_of(to - from);
    if (piece < pieces) break;
    piece -= pieces;
    from = to;
  }
  from += piece * piece_groups;
  if (from >= to) return;
  if (to > from + piece_groups) to = from + piece_groups;
  Found mine{0, 0, 0, 0};
  for (int64_t i = from * 16 + threadIdx.x; i < to * 16; i += threads) {
    const float x = a.g[i];
    const bool finite = (bits_of(x) & 0x7f800000u) != 0x7f800000u;
    const float magnitude = finite ? fabsf(x) : 0.0f;
    mine.squares += (double)magnitude * magnitude;
    mine.largest = magnitude > mine.largest ? magnitude : mine.largest;
    mine.infinite += finite ? 0 : 1;
    mine.nonzero += x != 0.0f ? 1 : 0;
  }
  found[threadIdx.x] = mine;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) found[threadIdx.x] = sum_of(found[threadIdx.x], found[threadIdx.x + half]);
  }
  if (threadIdx.x == 0) static_cast<Found*>(workspace)[blockIdx.x] = found[0];
}
EXPORT_CUDA_ENTRY(gradient_statistics, measure, 256)

// One thread a segment.
__device__ void run_gradient_statistics_add(const gradient_statistics_args& a, void* workspace) {
  GRID_LOOP(s, a.segments) {
    int64_t piece = 0, from = 0;
    for (int64_t before = 0; before < s; before++) {
      piece += pieces_of(a.ends[before] - from);
      from = a.ends[before];
    }
    Found sum{0, 0, 0, 0};
    const int64_t pieces = pieces_of(a.ends[s] - from);
    for (int64_t i = 0; i < pieces; i++) sum = sum_of(sum, static_cast<const Found*>(workspace)[piece + i]);
    float* const out = a.statistics + 4 * s;
    out[0] = (float)sum.squares, out[1] = sum.largest, out[2] = (float)sum.infinite, out[3] = (float)sum.nonzero;
  }
}
EXPORT_CUDA_ENTRY(gradient_statistics, add, 256)
