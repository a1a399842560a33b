// amax, amax_rotated, amax_both and amax_lines of amax.ts. Magnitudes are compared as bits, so maxima may be taken in any order, by atomics.
//
// Blocks add what they found to one pair of words for each result; the last block to do so writes it and clears the pair for the next launch.
// Launches of these kernels must therefore follow one another, as they do on one stream.
#include "sixteens_cuda.h"

static constexpr uint32_t infinite = 0x7f800000u;

__device__ uint32_t found_finite[2], found_any[2], blocks_done[2];

struct Found {
  uint32_t finite = 0, any = 0;
  __device__ void add(float x) {
    const uint32_t a = bits_of(x) & 0x7fffffffu;
    any = a > any ? a : any;
    if (a <= infinite && a > finite) finite = a;
  }
  __device__ void add(const Magnitudes& seen) {
    add(seen.largest);
    if (!seen.finite()) any = infinite;
  }
};

// For all threads of all blocks; `which` result of the launch this is.
__device__ void finish(const Found& found, float* amax, int which = 0) {
  __shared__ uint32_t finite, any;
  __syncthreads();
  if (threadIdx.x == 0) finite = any = 0;
  __syncthreads();
  const uint32_t of_warp = __reduce_max_sync(0xffffffffu, found.finite), any_of_warp = __reduce_max_sync(0xffffffffu, found.any);
  if (threadIdx.x % 32 == 0) {
    atomicMax(&finite, of_warp);
    atomicMax(&any, any_of_warp);
  }
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

// This thread's share of `count` values, as mapped; rows have `cols` of them.
template <class Act> __device__ Found found_in(const Act* values, int64_t count, const Mapping& mapping = Mapping(), int64_t cols = 8) {
  const bool plain = mapping.is_identity();
  const int64_t eights = in_sixteens(values) && (plain || cols % 8 == 0) ? count / 8 : 0;
  Magnitudes seen;
#pragma unroll 4
  GRID_LOOP(u, eights) {
    Eight x = load_eight(values + 8 * u);
    if (!plain)
#pragma unroll
      for (int i = 0; i < 8; i++) x.v[i] = mapping.of<Act>(x.v[i], 8 * u / cols, 8 * u % cols + i);
#pragma unroll
    for (int i = 0; i < 8; i++) seen.add(x.v[i]);
  }
  GRID_LOOP(i, count - 8 * eights) {
    const int64_t at = 8 * eights + i;
    seen.add(plain ? load(values + at) : mapping.of<Act>(load(values + at), at / cols, at % cols));
  }
  Found found;
  found.add(seen);
  return found;
}

template <class Act> __device__ void amax(const amax_args<Act>& a) { finish(found_in(a.x, a.rows * a.cols), a.amax); }
EXPORT_CUDA_ACT(amax)

// Columns rotated by 16, and what they are, as mapped, before: a warp has 16 rows of 64 columns at a time.
__device__ inline Found rotated_columns(const bf16* x, int64_t rows, int64_t cols, uint32_t signs, Magnitudes* plain = nullptr,
                                        const Mapping& mapping = Mapping()) {
  const int64_t across = cols / 64, first = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32, warps = (int64_t)gridDim.x * blockDim.x / 32;
  Magnitudes seen;
  for (int64_t task = first; task < rows / 16 * across; task += warps) {
    ColumnPair pair;
    const int64_t row = task / across * 16, column = task % across * 64 + threadIdx.x % 32 * 2;
    pair.load_from(x + row * cols + column, cols);
    pair.map(mapping, row, column);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float v[16];
      pair.get(c, v);
      if (plain)
#pragma unroll
        for (int i = 0; i < 16; i++) plain->add(v[i]);
      rotate_sixteen(v, signs);
#pragma unroll
      for (int i = 0; i < 16; i++) seen.add(v[i]);
    }
  }
  // The largest, rounded, is the largest of the rounded.
  seen.largest = round_bf16(seen.largest);
  Found found;
  found.add(seen);
  return found;
}

template <class Act> __device__ void amax_rotated(const amax_rotated_args<Act>& a) {
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(a.rows, a.cols, a.columns != 0);
  Found found;
  if constexpr (IsBf16<Act>::value)
    if (a.columns && a.hadamard == 16 && a.cols % 64 == 0 && in_sixteens(a.x)) {
      finish(rotated_columns(a.x, a.rows, a.cols, a.signs[0]), a.amax);
      return;
    }
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
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(a.rows, a.cols, true);
  Found found, found_t;
  if constexpr (IsBf16<Act>::value)
    if (a.hadamard == 16 && a.cols % 64 == 0 && in_sixteens(a.x)) {
      Magnitudes plain;
      found_t = rotated_columns(a.x, a.rows, a.cols, a.signs[0], &plain, Mapping(a));
      found.add(plain);
      finish(found, a.amax);
      finish(found_t, a.amax_t, 1);
      return;
    }
  if (a.hadamard == 0) {
    found = found_in(a.x, a.rows * a.cols, Mapping(a), a.cols);
    finish(found, a.amax);
    finish(found, a.amax_t, 1);
    return;
  }
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, start = task % cut.across() * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, a.x, cut, line, start, a.hadamard, a.signs, Mapping(a));
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
  auto& [loaded, rotated] = shared_pieces();
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
