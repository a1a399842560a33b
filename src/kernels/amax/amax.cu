// amax, amax_rotated, amax_both and amax_lines of amax.ts. Magnitudes are compared as bits, so maxima may be taken in any order, by atomics.
//
// Blocks add what they found to one pair of words for each result; the last block to do so writes it and clears the pair for the next launch.
// Launches of these kernels must therefore follow one another, as they do on one stream.
#include "piece_cuda.h"

static constexpr uint32_t infinite = 0x7f800000u;

__device__ uint32_t found_finite[2], found_any[2], blocks_done[2];

struct Found {
  uint32_t finite = 0, any = 0;
  __device__ void add(float x) {
    const uint32_t a = bits_of(x) & 0x7fffffffu;
    any = a > any ? a : any;
    if (a <= infinite && a > finite) finite = a;
  }
};

// For all threads of all blocks; `which` result of the launch this is.
__device__ void finish(const Found& found, float* amax, int which = 0) {
  __shared__ uint32_t finite, any;
  __syncthreads();
  if (threadIdx.x == 0) finite = any = 0;
  __syncthreads();
  atomicMax(&finite, found.finite);
  atomicMax(&any, found.any);
  __syncthreads();
  if (threadIdx.x != 0) return;
  atomicMax(&found_finite[which], finite);
  atomicMax(&found_any[which], any);
  __threadfence();
  if (atomicAdd(&blocks_done[which], 1u) != gridDim.x - 1) return;
  amax[0] = float_of(atomicExch(&found_finite[which], 0u));
  amax[1] = atomicExch(&found_any[which], 0u) >= infinite ? 1.0f : 0.0f;
  blocks_done[which] = 0;
}

template <class Act> __device__ void amax(const amax_args<Act>& a) {
  Found found;
  GRID_LOOP(i, a.rows * a.cols) found.add(load(a.x + i));
  finish(found, a.amax);
}
EXPORT_CUDA_ACT(amax)

template <class Act> __device__ void amax_rotated(const amax_rotated_args<Act>& a) {
  __shared__ Piece loaded, rotated;
  const Cut cut(a.rows, a.cols, a.columns != 0);
  Found found;
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, start = task % cut.across() * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, a.x, cut, line, start, a.hadamard, a.signs);
    const int lanes = cut.lanes(line), count = cut.count(start);
    BLOCK_LOOP(u, LINES * count) if (u % LINES < lanes) found.add(piece.value[u / LINES][u % LINES]);
  }
  finish(found, a.amax);
}
EXPORT_CUDA_ACT(amax_rotated)

template <class Act> __device__ void amax_both(const amax_both_args<Act>& a) {
  __shared__ Piece loaded, rotated;
  const Cut cut(a.rows, a.cols, true);
  Found found, found_t;
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, start = task % cut.across() * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, a.x, cut, line, start, a.hadamard, a.signs);
    const int lanes = cut.lanes(line), count = cut.count(start);
    BLOCK_LOOP(u, LINES * count)
      if (u % LINES < lanes) {
        found.add(loaded.value[u / LINES][u % LINES]);
        found_t.add(piece.value[u / LINES][u % LINES]);
      }
  }
  finish(found, a.amax);
  finish(found_t, a.amax_t, 1);
}
EXPORT_CUDA_ACT(amax_both)

template <class Act> __device__ void amax_lines(const amax_lines_args<Act>& a) {
  __shared__ Piece loaded, rotated;
  __shared__ uint32_t largest[LINES];
  const Cut cut(a.rows, a.cols, a.columns != 0);
  Found found;
  EACH_BLOCK(task, cut.down()) {
    const int64_t line = task * LINES;
    const int lanes = cut.lanes(line);
    __syncthreads();
    BLOCK_LOOP(l, LINES) largest[l] = 0;
    for (int64_t start = 0; start < cut.length; start += SPAN) {
      const Piece& piece = prepare_piece(loaded, rotated, a.x, cut, line, start, a.hadamard, a.signs);
      BLOCK_LOOP(u, LINES * cut.count(start)) {
        if (u % LINES >= lanes) continue;
        Found one;
        one.add(piece.value[u / LINES][u % LINES]);
        atomicMax(&largest[u % LINES], one.finite);
        found.finite = one.finite > found.finite ? one.finite : found.finite;
        found.any = one.any > found.any ? one.any : found.any;
      }
    }
    __syncthreads();
    BLOCK_LOOP(l, lanes) a.largest[line + l] = float_of(largest[l]);
  }
  finish(found, a.amax);
}
EXPORT_CUDA_ACT(amax_lines)
