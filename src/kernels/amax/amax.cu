// amax, amax_rotated, amax_both and amax_lines of amax.ts.
#include "found_cuda.h"
#include "sixteens_cuda.h"

// 64 registers a thread: four blocks a multiprocessor.
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 4) amax_both_bf16(amax_both_args<bf16> a);)
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 4) amax_rotated_bf16(amax_rotated_args<bf16> a);)

// Magnitudes seen: the largest, NaN left out, and whether one was NaN or infinite.
struct Magnitudes {
  float largest = 0, zero = 0;
  __device__ void add(float x) {
    largest = fmaxf(largest, fabsf(x));
    zero = fmaf(x, 0.0f, zero);
  }
  __device__ bool finite() const { return zero == 0.0f; }
};

// max(|a|, |b|), NaN if one is.
__device__ inline float larger_or_nan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(fabsf(a)), "f"(fabsf(b)));
  return larger;
}

// Of 32 BF16.
__device__ inline void add_pairs(Found& found, const uint32_t (&pairs)[16]) {
  const uint32_t largest = larger_half(larger_pair(largest_pair_of(pairs), largest_pair_of(pairs + 8)));
  if (largest < 0x7c000000u) found.add(float_of(largest));
  else
#pragma unroll
    for (int i = 0; i < 16; i++) found.add(low_of(pairs[i])), found.add(high_of(pairs[i]));
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
  found.add(seen.largest);
  if (!seen.finite()) found.any = INFINITE_BITS;
  return found;
}

template <class Act> __device__ void amax(const amax_args<Act>& a) { finish(found_in(a.x, a.rows * a.cols), a.amax); }
EXPORT_CUDA_ACT(amax)

// Columns rotated by 16, and what they are, as mapped, before: a warp has 16 rows of 64 columns at a time.
__device__ inline Found rotated_columns(const bf16* x, int64_t rows, int64_t cols, const uint32_t* signs, Found* plain = nullptr,
                                        const Mapping& mapping = Mapping()) {
  const uint32_t across = (uint32_t)((cols + 63) / 64), tasks = (uint32_t)(rows / 16) * across;
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = gridDim.x * blockDim.x / 32;
  share_signs(signs);
  __syncthreads();
  Found found;
  for (uint32_t task = warp; task < tasks; task += warps) {
    ColumnPair pair;
    pair.load_from(x, rows, cols, task / across * 16, task % across * 64 + threadIdx.x % 32 * 2, mapping);
    const Spread spread = pair.spread();
    if (plain) add_pairs(*plain, pair.words);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float x[16], v[16], largest = 0;
      pair.get(c, x);
      rotate_sixteen(v, x, c ? spread.high_exact() : spread.low_exact());
#pragma unroll
      for (int i = 0; i < 16; i++) largest = larger_or_nan(largest, v[i]);
      if (bits_of(largest) <= INFINITE_BITS) found.add(largest);
      else
#pragma unroll
        for (int i = 0; i < 16; i++) found.add(v[i]);
    }
  }
  // The largest, rounded, is the largest of the rounded.
  found.finite = bits_of(round_bf16(float_of(found.finite)));
  found.any = One::larger(found.any, found.finite);
  return found;
}

template <class Act> __device__ void amax_rotated(const amax_rotated_args<Act>& a) {
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(a.rows, a.cols, a.columns != 0);
  Found found;
  if constexpr (IsBf16<Act>::value)
    if (a.columns && a.hadamard == 16 && a.cols % 2 == 0 && in_sixteens(a.x)) {
      finish(rotated_columns(a.x, a.rows, a.cols, a.signs), a.amax);
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
    if (a.hadamard == 16 && a.cols % 2 == 0 && in_sixteens(a.x)) {
      found_t = rotated_columns(a.x, a.rows, a.cols, a.signs, &found, Mapping(a));
      finish(found, a.amax);
      finish(found_t, a.amax_t, nullptr, 1);
      return;
    }
  if (a.hadamard == 0) {
    found = found_in(a.x, a.rows * a.cols, Mapping(a), a.cols);
    finish(found, a.amax);
    finish(found, a.amax_t, nullptr, 1);
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
  finish(found_t, a.amax_t, nullptr, 1);
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
