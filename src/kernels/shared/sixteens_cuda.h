// Blocks of 16 BF16 in the registers of a thread: what quantisation to NVFP4 on a GPU is made of where shapes allow, with the bits of quantize.h.
//
// An E2M1 code is a piecewise linear function of the magnitude a, and the least of its three pieces: min(2 a, a + 2, a / 2 + 4, 7), rounded. Added
// to 2^23 by a fused operation, each piece is rounded once, to nearest-even, or towards zero with 8 more bits for stochastic rounding.
#pragma once
#include "quantize_cuda.h"

static constexpr float TWO_23 = 8388608.0f;

// Codes of what is not NaN.
__device__ inline uint32_t nearest_e2m1(float y) {
  const float a = fabsf(y);
  const float code = fminf(fminf(fmaf(a, 2.0f, TWO_23), a + (TWO_23 + 2.0f)), fminf(fmaf(a, 0.5f, TWO_23 + 4.0f), TWO_23 + 7.0f));
  return (bits_of(code) & 7u) | (bits_of(y) >> 28 & 8u);
}
__device__ inline uint32_t stochastic_e2m1(float y, uint32_t random) {
  const float a = fabsf(y);
  const float steps = fminf(fminf(__fmaf_rz(a, 512.0f, TWO_23), __fmaf_rz(a, 256.0f, TWO_23 + 512.0f)),
                            fminf(__fmaf_rz(a, 128.0f, TWO_23 + 1024.0f), TWO_23 + 1792.0f));
  return (bits_of(steps) + random >> 8 & 7u) | (bits_of(y) >> 28 & 8u);
}

// Magnitudes seen: the largest, NaN left out, and whether one was NaN or infinite.
struct Magnitudes {
  float largest = 0, zero = 0;
  __device__ void add(float x) {
    largest = fmaxf(largest, fabsf(x));
    zero = fmaf(x, 0.0f, zero);
  }
  __device__ bool finite() const { return zero == 0.0f; }
};

__device__ constexpr bool odd(int x) { return ((x ^ x >> 1 ^ x >> 2 ^ x >> 3) & 1) != 0; }

// Sums of the first 2 Count of 16 terms, for every index below 2 Count, from those of the first Count: the order of src/formats/hadamard.ts, in which
// indices with the same lower bits share their first sums.
template <int Count> __device__ void double_sums(float (&sums)[16], const float (&x)[16]) {
#pragma unroll
  for (int j = 0; j < Count; j++) sums[j + Count] = sums[j];
#pragma unroll
  for (int i = Count; i < 2 * Count; i++)
#pragma unroll
    for (int j = 0; j < 2 * Count; j++) sums[j] = odd(i & j) ? sums[j] - x[i] : sums[j] + x[i];
}

// Hadamard transform of size 16, not rounded to BF16.
__device__ inline void rotate_sixteen(float (&v)[16], uint32_t signs) {
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = (signs >> i & 1u ? -0.25f : 0.25f) * v[i];
  v[0] = 0.0f + x[0];
  double_sums<1>(v, x);
  double_sums<2>(v, x);
  double_sums<4>(v, x);
  double_sums<8>(v, x);
}

__device__ inline void round_sixteen(float (&v)[16]) {
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const uint32_t pair = pack_bf16(v[i], v[i + 1]);
    v[i] = float_of(pair << 16), v[i + 1] = float_of(pair & 0xffff0000u);
  }
}

// 16 consecutive rows of the two columns from c on.
struct ColumnPair {
  uint32_t words[16];
  __device__ void load_from(const bf16* x, int64_t cols) {
#pragma unroll
    for (int i = 0; i < 16; i++) words[i] = *reinterpret_cast<const uint32_t*>(x + i * cols);
  }
  // These are rows r .. r + 16 and the columns c and c + 1.
  __device__ void map(const Mapping& mapping, int64_t r, int64_t c) {
    if (mapping.is_identity()) return;
#pragma unroll
    for (int i = 0; i < 16; i++)
      words[i] = pack_bf16(mapping.of<float>(float_of(words[i] << 16), r + i, c), mapping.of<float>(float_of(words[i] & 0xffff0000u), r + i, c + 1));
  }
  __device__ void get(int column, float (&v)[16]) const {
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = float_of(column ? words[i] & 0xffff0000u : words[i] << 16);
  }
};

struct Quantized16 {
  uint32_t words[2], stored;
};

// Block `group` of 16 of the image.
template <Rounding How> __device__ Quantized16 quantize_sixteen(const Request<NVFP4>& q, const Outer<One>& outer, const float (&v)[16], uint64_t group) {
  Quantized16 out;
  Magnitudes seen;
#pragma unroll
  for (int i = 0; i < 16; i++) seen.add(v[i]);
  BlockScale<One> scale = ScaleE4M3::of<One>(bits_of(seen.largest), outer, q.scaling);
  Random<One> random{};
  if constexpr (How != Rounding::nearest) random = draw_group(q.random, q.stream, group);
  if (How == Rounding::eden || q.scaling.four_over_six || !seen.finite()) {
    float squares[16], products[16];
    if constexpr (How == Rounding::nearest)
      if (q.scaling.four_over_six) scale = four_over_six<One>(v, bits_of(seen.largest), scale, outer, q.scaling);
    if constexpr (How == Rounding::eden) scale = eden_scale<One>(scale, outer);
    encode_group<NVFP4, How>(v, scale, random, out.words, squares, products);
    if constexpr (How == Rounding::eden) scale.stored = eden_correction<One>(scale.stored, squares, products, random.word[0]);
  } else {
#pragma unroll
    for (int w = 0; w < 2; w++) {
      out.words[w] = 0;
#pragma unroll
      for (int i = 8 * w; i < 8 * w + 8; i++) {
        const float y = v[i] * scale.multiplier;
        const uint32_t code = How == Rounding::nearest ? nearest_e2m1(y) : stochastic_e2m1(y, random.byte(i));
        out.words[w] += code << 4 * (i - 8 * w);
      }
    }
  }
  out.stored = scale.stored;
  return out;
}

__device__ inline void prepare_sixteen(float (&v)[16], int hadamard, uint32_t signs) {
  if (!hadamard) return;
  rotate_sixteen(v, signs);
  round_sixteen(v);
}

// The block of 16 values from x on, the image's block `group`.
template <Rounding How>
__device__ void quantize_row_block(const Request<NVFP4>& q, const Outer<One>& outer, const bf16* x, int64_t cols, int64_t group, uint32_t signs) {
  const Eight low = load_eight(x), high = load_eight(x + 8);
  float v[16];
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = low.v[i], v[i + 8] = high.v[i];
  if (!q.mapping.is_identity()) {
    const int64_t r = 16 * group / cols, c = 16 * group % cols;
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = q.mapping.of<bf16>(v[i], r, c + i);
  }
  prepare_sixteen(v, q.hadamard, signs);
  const Quantized16 block = quantize_sixteen<How>(q, outer, v, group);
  *reinterpret_cast<uint2*>(q.codes + 8 * group) = make_uint2(block.words[0], block.words[1]);
  q.scales[group] = (uint8_t)block.stored;
}

template <Rounding How> __device__ void quantize_rows_by_sixteens(const Request<NVFP4>& q, const bf16* x, int64_t rows, int64_t cols) {
  const int64_t across = cols / 16;
  const uint32_t signs = q.hadamard ? q.signs[0] : 0;
  Outer<One> outer = outer_of(q, 0);
  GRID_LOOP(u, rows * across) {
    if (q.per_row) outer = outer_of(q, u / across);
    quantize_row_block<How>(q, outer, x + 16 * u, cols, u, signs);
  }
}

// What a block of 256 threads makes of 128 rows and 64 columns: each warp has 16 rows, each lane two columns.
static constexpr int TALL = 128, WIDE = 64;
struct alignas(16) TransposedTile {
  uint32_t codes[WIDE][TALL / 8 + 4];
  uint8_t scales[WIDE][TALL / 16];

  __device__ void put(int column, const Quantized16& block) {
    const int warp = threadIdx.x / 32;
    *reinterpret_cast<uint2*>(&codes[column][2 * warp]) = make_uint2(block.words[0], block.words[1]);
    scales[column][warp] = (uint8_t)block.stored;
  }
  // To the image of the transpose, [cols, rows]; between two barriers.
  __device__ void write(uint8_t* to_codes, uint8_t* to_scales, int64_t rows, int64_t row, int64_t column) const {
    const int c = threadIdx.x / 4, quarter = threadIdx.x % 4;
    reinterpret_cast<uint4*>(to_codes + ((column + c) * rows + row) / 2)[quarter] = *reinterpret_cast<const uint4*>(&codes[c][4 * quarter]);
    if (threadIdx.x < WIDE)
      *reinterpret_cast<uint2*>(to_scales + ((column + threadIdx.x) * rows + row) / 16) = *reinterpret_cast<const uint2*>(scales[threadIdx.x]);
  }
};

__device__ inline TransposedTile& shared_tile() {
  static_assert(sizeof(TransposedTile) <= sizeof(Pieces), "a kernel has one or the other");
  return *reinterpret_cast<TransposedTile*>(&shared_pieces());
}

__device__ inline bool in_tiles(const bf16* x, int64_t rows, int64_t cols) {
  return blockDim.x == 256 && rows % TALL == 0 && cols % WIDE == 0 && in_sixteens(x);
}

// The image of the transpose, and if `rows_of` is given, of x itself: its blocks are read again while they are in the first cache.
template <Rounding How>
__device__ void quantize_columns_by_sixteens(const Request<NVFP4>& q, const bf16* x, int64_t rows, int64_t cols, const Request<NVFP4>* rows_of = nullptr) {
  TransposedTile& tile = shared_tile();
  const uint32_t signs = q.hadamard ? q.signs[0] : 0;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  EACH_BLOCK(task, rows / TALL * (cols / WIDE)) {
    const int64_t row = task / (cols / WIDE) * TALL, column = task % (cols / WIDE) * WIDE;
    ColumnPair pair;
    pair.load_from(x + (row + 16 * warp) * cols + column + 2 * lane, cols);
    pair.map(q.mapping, row + 16 * warp, column + 2 * lane);
#pragma unroll 1
    for (int c = 0; c < 2; c++) {
      const int64_t line = column + 2 * lane + c;
      float v[16];
      pair.get(c, v);
      prepare_sixteen(v, q.hadamard, signs);
      tile.put(2 * lane + c, quantize_sixteen<How>(q, outer_of(q, line), v, (line * rows + row) / 16 + warp));
    }
    __syncthreads();
    tile.write(q.codes, q.scales, rows, row, column);
    if (rows_of)
#pragma unroll 1
      for (int u = threadIdx.x; u < TALL * WIDE / 16; u += 256) {
        const int64_t at = (row + u / (WIDE / 16)) * cols + column + u % (WIDE / 16) * 16;
        quantize_row_block<How>(*rows_of, outer_of(*rows_of, 0), x + at, cols, at / 16, 0);
      }
    __syncthreads();
  }
}

// Square tiles to nearest, both orientations; codes_t and scales_t may be null.
__device__ inline void quantize_square_by_sixteens(const Request<NVFP4>& q, uint8_t* codes_t, uint8_t* scales_t, const bf16* x, int64_t rows,
                                                   int64_t cols) {
  __shared__ __align__(16) TransposedTile tile;
  __shared__ __align__(16) uint8_t row_codes[TALL][WIDE / 2];
  __shared__ __align__(4) uint8_t row_scales[TALL / 16][WIDE / 16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Outer<One> outer = outer_of(q, 0);
  EACH_BLOCK(task, rows / TALL * (cols / WIDE)) {
    const int64_t row = task / (cols / WIDE) * TALL, column = task % (cols / WIDE) * WIDE;
    ColumnPair pair;
    pair.load_from(x + (row + 16 * warp) * cols + column + 2 * lane, cols);
    Magnitudes seen;
#pragma unroll
    for (int i = 0; i < 16; i++) seen.add(float_of(pair.words[i] << 16)), seen.add(float_of(pair.words[i] & 0xffff0000u));
    // Eight lanes have the 16 columns of a tile.
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
      seen.largest = fmaxf(seen.largest, __shfl_xor_sync(0xffffffffu, seen.largest, step));
      seen.zero += __shfl_xor_sync(0xffffffffu, seen.zero, step);
    }
    const BlockScale<One> scale = ScaleE4M3::of<One>(bits_of(seen.largest), outer, q.scaling);
    Quantized16 blocks[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
      blocks[c].stored = scale.stored;
      blocks[c].words[0] = blocks[c].words[1] = 0;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const float low = float_of(pair.words[i] << 16) * scale.multiplier, high = float_of(pair.words[i] & 0xffff0000u) * scale.multiplier;
      uint32_t first, second;
      if (seen.finite()) first = nearest_e2m1(low), second = nearest_e2m1(high);
      else first = encode_nearest<One, E2M1>(low), second = encode_nearest<One, E2M1>(high);
      blocks[0].words[i / 8] += first << 4 * (i % 8);
      blocks[1].words[i / 8] += second << 4 * (i % 8);
      row_codes[16 * warp + i][lane] = (uint8_t)(first | second << 4);
    }
    tile.put(2 * lane, blocks[0]);
    tile.put(2 * lane + 1, blocks[1]);
    if (lane % 8 == 0) row_scales[warp][lane / 8] = (uint8_t)scale.stored;
    __syncthreads();
    if (codes_t) tile.write(codes_t, scales_t, rows, row, column);
    const int r = threadIdx.x / 2, half = threadIdx.x % 2;
    reinterpret_cast<uint4*>(q.codes + ((row + r) * cols + column) / 2)[half] = reinterpret_cast<const uint4*>(row_codes[r])[half];
    if (half == 0)
      *reinterpret_cast<uint32_t*>(q.scales + ((row + r) * cols + column) / 16) = *reinterpret_cast<const uint32_t*>(row_scales[r / 16]);
    __syncthreads();
  }
}

// Whether the images of x are made here; else quantize_cuda.h makes them.
template <class Act> __device__ bool rows_by_sixteens(const Request<NVFP4>& q, const Act* x) {
  return IsBf16<Act>::value && (q.hadamard == 0 || q.hadamard == 16) && in_sixteens(x);
}
template <class Act> __device__ bool columns_by_sixteens(const Request<NVFP4>& q, const Act* x, int64_t rows, int64_t cols) {
  if constexpr (IsBf16<Act>::value) return (q.hadamard == 0 || q.hadamard == 16) && in_tiles(x, rows, cols);
  return false;
}

template <Rounding How, class Act> __device__ void image_of_rows(const Request<NVFP4>& q, const Act* x, int64_t rows, int64_t cols) {
  if constexpr (IsBf16<Act>::value)
    if (rows_by_sixteens(q, x)) return quantize_rows_by_sixteens<How>(q, x, rows, cols);
  quantize_lines<NVFP4, How>(q, x, rows, cols, false);
}
template <Rounding How, class Act> __device__ void image_of_columns(const Request<NVFP4>& q, const Act* x, int64_t rows, int64_t cols) {
  if constexpr (IsBf16<Act>::value)
    if (columns_by_sixteens(q, x, rows, cols)) return quantize_columns_by_sixteens<How>(q, x, rows, cols);
  quantize_lines<NVFP4, How>(q, x, rows, cols, true);
}

template <class A> __device__ Request<NVFP4> request_of(const A& a, const Scaling& s) {
  return Request<NVFP4>{a.codes, a.scales, a.amax, a.per_row, a.signs, a.hadamard, a.random, a.stream, s};
}
