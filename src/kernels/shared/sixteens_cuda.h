// Images of BF16 in NVFP4 on a GPU where shapes allow blocks of 16 in the registers of a thread (nvfp4_cuda.h), and what their columns and
// rotations are made of.
#pragma once
#include "nvfp4_cuda.h"

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

// Magnitudes of pairs, the low values and the high values apart, as their bits doubled.
struct Spread {
  uint32_t largest = 0, least = 0xffffffffu;

  __device__ void add(uint32_t first, uint32_t second) {
    // A low value's sign becomes the last bit of the high one, where it does no harm.
    const uint32_t a = first + first, b = second + second;
    largest = __vimax3_u16x2(largest, a, b);
    // Two less, so that zeros are the largest.
    least = __viaddmin_u16x2(b, 0xfffefffeu, __viaddmin_u16x2(a, 0xfffefffeu, least));
  }
  // Whether sums of 16 of them, each added or subtracted, are exact in FP32 in any order: at most 2^24 times the last bit of the smallest.
  __device__ static bool exact(uint32_t largest, uint32_t least) { return largest <= (least + 2 & ~0xffu) + 13 * 256 && largest < 0xfc00u; }
  __device__ bool low_exact() const { return exact(largest & 0xffffu, least & 0xffffu); }
  __device__ bool high_exact() const { return exact(largest >> 16, least >> 16); }
};

// Hadamard transform of size 16 with shared signs, not rounded to BF16; `exact`: its sums are exact. No sum is -0: the first begins at 0.
__device__ inline void rotate_sixteen(float (&v)[16], const float (&x)[16], bool exact) {
  float h[16];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float4 four = shared_by_blocks().signed_quarters[i];
    h[4 * i] = four.x, h[4 * i + 1] = four.y, h[4 * i + 2] = four.z, h[4 * i + 3] = four.w;
  }
  if (__all_sync(__activemask(), exact)) {
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
      const float first = fmaf(x[i], h[i], 0.0f);
      v[i] = fmaf(x[i + 1], h[i + 1], first), v[i + 1] = fmaf(-x[i + 1], h[i + 1], first);
    }
#pragma unroll
    for (int step = 2; step < 16; step *= 2)
#pragma unroll
      for (int i = 0; i < 16; i++)
        if (!(i & step)) {
          const float sum = v[i] + v[i + step], difference = v[i] - v[i + step];
          v[i] = sum, v[i + step] = difference;
        }
    return;
  }
#pragma unroll
  for (int i = 0; i < 16; i++) h[i] *= x[i];
  v[0] = 0.0f + h[0];
  double_sums<1>(v, h);
  double_sums<2>(v, h);
  double_sums<4>(v, h);
  double_sums<8>(v, h);
}

// Rounded to BF16.
__device__ inline void rotate_to_words(Words16& words, const float (&x)[16], bool exact) {
  float v[16];
  rotate_sixteen(v, x, exact);
#pragma unroll
  for (int k = 0; k < 8; k++) words.word[k] = pack_bf16(v[2 * k], v[2 * k + 1]);
}

__device__ inline void rotate_words(Words16& words) {
  float x[16];
  Spread spread;
#pragma unroll
  for (int k = 0; k < 8; k++) {
    x[2 * k] = low_of(words.word[k]), x[2 * k + 1] = high_of(words.word[k]);
    if (k % 2) spread.add(words.word[k - 1], words.word[k]);
  }
  const uint32_t low = spread.largest & 0xffffu, high = spread.largest >> 16, least_low = spread.least & 0xffffu, least_high = spread.least >> 16;
  rotate_to_words(words, x, Spread::exact(low > high ? low : high, least_low < least_high ? least_low : least_high));
}

// Columns c and c + 1 of row r, as mapped.
__device__ inline uint32_t map_pair(uint32_t pair, const Mapping& mapping, int64_t r, int64_t c) {
  return pack_bf16(mapping.of<float>(low_of(pair), r, c), mapping.of<float>(high_of(pair), r, c + 1));
}

// 16 consecutive rows of the two columns from c on.
struct ColumnPair {
  uint32_t words[16];
  __device__ void load_from(const bf16* x, int64_t cols) {
#pragma unroll
    for (int i = 0; i < 16; i++) words[i] = *reinterpret_cast<const uint32_t*>(x + i * cols);
  }
  // Rows r .. r + 16 of x [rows, cols] as mapped, zeros where it ends.
  __device__ void load_from(const bf16* x, int64_t rows, int64_t cols, int64_t r, int64_t c, const Mapping& mapping = Mapping()) {
    if (r < rows && c < cols) {
      load_from(x + r * cols + c, cols);
      map(mapping, r, c);
    } else {
#pragma unroll
      for (int i = 0; i < 16; i++) words[i] = 0;
    }
  }
  // These are rows r .. r + 16 and the columns c and c + 1.
  __device__ void map(const Mapping& mapping, int64_t r, int64_t c) {
    if (mapping.is_identity()) return;
#pragma unroll
    for (int i = 0; i < 16; i++) words[i] = map_pair(words[i], mapping, r + i, c);
  }
  __device__ void get(int column, float (&v)[16]) const {
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = float_of(__byte_perm(words[i], 0, column ? 0x3244 : 0x1044));
  }
  __device__ Spread spread() const {
    Spread spread;
#pragma unroll
    for (int i = 0; i < 16; i += 2) spread.add(words[i], words[i + 1]);
    return spread;
  }
  __device__ void get(int column, Words16& w) const {
    const uint32_t halves = column ? 0x7632 : 0x5410;
#pragma unroll
    for (int k = 0; k < 8; k++) w.word[k] = __byte_perm(words[2 * k], words[2 * k + 1], halves);
  }
};

// 16 values from x on.
struct RowSixteen {
  uint4 low, high;
  __device__ void load_from(const bf16* x) { low = reinterpret_cast<const uint4*>(x)[0], high = reinterpret_cast<const uint4*>(x)[1]; }
  __device__ Words16 get() const { return Words16{{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}}; }
};

// These are row r and the columns c .. c + 16.
__device__ inline void map_words(Words16& w, const Mapping& mapping, int64_t r, int64_t c) {
#pragma unroll
  for (int k = 0; k < 8; k++) w.word[k] = map_pair(w.word[k], mapping, r, c + 2 * k);
}

__device__ inline void put_block(const Request<NVFP4>& q, int64_t group, const Quantized16& block) {
  *reinterpret_cast<uint2*>(q.codes + 8 * group) = make_uint2(block.words[0], block.words[1]);
  q.scales[group] = (uint8_t)block.stored;
}

template <Rounding How, bool Rotated>
__device__ void quantize_rows_by_sixteens(const Request<NVFP4>& q, const BlockScales& scales, const bf16* x, int64_t rows, int64_t cols) {
  const int64_t across = cols / 16, blocks = rows * across, stride = (int64_t)gridDim.x * blockDim.x;
  int64_t u = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  RowSixteen next;
  if (u < blocks) next.load_from(x + 16 * u);
  for (; u < blocks; u += stride) {
    const RowSixteen sixteen = next;
    if (u + stride < blocks) next.load_from(x + 16 * (u + stride));
    Words16 w = sixteen.get();
    if (!q.mapping.is_identity()) map_words(w, q.mapping, u / across, u % across * 16);
    if (Rotated) rotate_words(w);
    put_block(q, u, quantize_sixteen<How>(q, scales, w, u, q.per_row ? u / across : 0));
  }
}

template <Rounding How> __device__ void quantize_rows_by_sixteens(const Request<NVFP4>& q, const bf16* x, int64_t rows, int64_t cols) {
  const BlockScales scales = share_scales<How>(q, 0);
  __syncthreads();
  if (q.hadamard) quantize_rows_by_sixteens<How, true>(q, scales, x, rows, cols);
  else quantize_rows_by_sixteens<How, false>(q, scales, x, rows, cols);
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
  __device__ void write(uint8_t* to_codes, uint8_t* to_scales, int64_t rows, int64_t cols, int64_t row, int64_t column) const {
    if (rows % TALL || cols % WIDE) {
#pragma unroll 1
      for (int u = threadIdx.x; u < WIDE * TALL / 16; u += 256) {
        const int c = u / (TALL / 16), block = u % (TALL / 16);
        if (column + c >= cols || row + 16 * block >= rows) continue;
        const int64_t group = ((column + c) * rows + row) / 16 + block;
        reinterpret_cast<uint2*>(to_codes)[group] = *reinterpret_cast<const uint2*>(&codes[c][2 * block]);
        to_scales[group] = scales[c][block];
      }
      return;
    }
    const int c = threadIdx.x / 4, quarter = threadIdx.x % 4;
    reinterpret_cast<uint4*>(to_codes + ((column + c) * rows + row) / 2)[quarter] = *reinterpret_cast<const uint4*>(&codes[c][4 * quarter]);
    if (threadIdx.x < WIDE)
      *reinterpret_cast<uint2*>(to_scales + ((column + threadIdx.x) * rows + row) / 16) = *reinterpret_cast<const uint2*>(scales[threadIdx.x]);
  }
};

__device__ inline bool in_blocks(const bf16* x, int64_t rows, int64_t cols) {
  return blockDim.x == 256 && rows % 16 == 0 && cols % 16 == 0 && in_sixteens(x);
}

// Words of 128 rows and 64 columns as they are read; the pitch lets eight threads that read 32 bytes each touch all banks.
struct alignas(16) RowsTile {
  uint32_t words[TALL][WIDE / 2 + 4];

  __device__ void put(const ColumnPair& pair) {
#pragma unroll
    for (int i = 0; i < 16; i++) words[threadIdx.x / 32 * 16 + i][threadIdx.x % 32] = pair.words[i];
  }
  __device__ RowSixteen get(int row, int block) const {
    const uint4* const from = reinterpret_cast<const uint4*>(&words[row][8 * block]);
    return RowSixteen{from[0], from[1]};
  }
};

// What images of columns have in shared memory; one for all that a kernel does.
struct SharedTiles {
  TransposedTile transposed;
  RowsTile rows;
};
__device__ inline SharedTiles& shared_tiles() {
  __shared__ SharedTiles tiles;
  return tiles;
}

// Where tiles of 128 rows and 64 columns of a matrix begin.
struct Tiles {
  uint32_t across, count;
  __device__ Tiles(int64_t rows, int64_t cols)
      : across((uint32_t)((cols + WIDE - 1) / WIDE)), count((uint32_t)((rows + TALL - 1) / TALL) * across) {}
  __device__ int64_t row(uint32_t tile) const { return tile / across * TALL; }
  __device__ int64_t column(uint32_t tile) const { return tile % across * WIDE; }
};

// The image of the transpose, and if `rows_of` is given, of x itself.
template <Rounding How, bool Rotated, bool Both>
__device__ void quantize_columns_by_sixteens(const Request<NVFP4>& q, const bf16* x, int64_t rows, int64_t cols, const Request<NVFP4>* rows_of) {
  auto& [tile, across] = shared_tiles();
  const BlockScales scales = share_scales<How>(q, 0), row_scales = Both ? share_scales<How>(*rows_of, 1) : scales;
  __syncthreads();
  const Tiles tiles(rows, cols);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t blocks_down = (uint32_t)(rows / 16), blocks_across = (uint32_t)(cols / 16);
  EACH_BLOCK(task, tiles.count) {
    const int64_t row = tiles.row((uint32_t)task), column = tiles.column((uint32_t)task);
    ColumnPair pair;
    pair.load_from(x, rows, cols, row + 16 * warp, column + 2 * lane, q.mapping);
    if (Both) across.put(pair);
    const Spread spread = Rotated ? pair.spread() : Spread();
    uint64_t group = (uint64_t)(column + 2 * lane) * blocks_down + (uint32_t)(row / 16) + warp;
#pragma unroll 1
    for (int c = 0; c < 2; c++, group += blocks_down) {
      const int64_t line = column + 2 * lane + c;
      Words16 w;
      if constexpr (Rotated) {
        float x[16];
        pair.get(c, x);
        rotate_to_words(w, x, c ? spread.high_exact() : spread.low_exact());
      } else {
        pair.get(c, w);
      }
      tile.put(2 * lane + c, quantize_sixteen<How>(q, scales, w, group, line < cols ? line : 0));
    }
    __syncthreads();
    tile.write(q.codes, q.scales, rows, cols, row, column);
    if constexpr (Both) {
      const uint64_t first = (uint64_t)row * blocks_across + (uint32_t)(column / 16);
#pragma unroll 1
      for (int u = threadIdx.x; u < TALL * WIDE / 16; u += 256) {
        const uint32_t r = u / (WIDE / 16), block = u % (WIDE / 16);
        if (row + r >= rows || column + 16 * block >= cols) continue;
        const uint64_t group_of_row = first + (uint64_t)r * blocks_across + block;
        put_block(*rows_of, group_of_row, quantize_sixteen<How>(*rows_of, row_scales, across.get(r, block).get(), group_of_row, row + r));
      }
    }
    __syncthreads();
  }
}

template <Rounding How, bool Both = false>
__device__ void quantize_columns_by_sixteens(const Request<NVFP4>& q, const bf16* x, int64_t rows, int64_t cols,
                                             const Request<NVFP4>* rows_of = nullptr) {
  if (q.hadamard) quantize_columns_by_sixteens<How, true, Both>(q, x, rows, cols, rows_of);
  else quantize_columns_by_sixteens<How, false, Both>(q, x, rows, cols, rows_of);
}

// Square tiles to nearest, both orientations; codes_t and scales_t may be null.
__device__ inline void quantize_square_by_sixteens(const Request<NVFP4>& q, uint8_t* codes_t, uint8_t* scales_t, const bf16* x, int64_t rows,
                                                   int64_t cols) {
  __shared__ TransposedTile tile;
  __shared__ __align__(16) uint8_t row_codes[TALL][WIDE / 2];
  __shared__ __align__(4) uint8_t row_scales[TALL / 16][WIDE / 16];
  const BlockScales scales = share_scales<Rounding::nearest>(q, 0);
  __syncthreads();
  const Tiles tiles(rows, cols);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  EACH_BLOCK(task, tiles.count) {
    const int64_t row = tiles.row((uint32_t)task), column = tiles.column((uint32_t)task);
    ColumnPair pair;
    pair.load_from(x, rows, cols, row + 16 * warp, column + 2 * lane);
    uint32_t largest = larger_half(larger_pair(largest_pair_of(pair.words), largest_pair_of(pair.words + 8)));
    // Eight lanes have the 16 columns of a tile.
#pragma unroll
    for (int step = 1; step < 8; step *= 2) largest = One::larger(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    uint32_t stored = stored_scale(float_of(largest), scales.encode, scales.reciprocal, q.scaling);
    const float multiplier = scales.multipliers[stored];
    Quantized16 blocks[2];
    if (BlockScales::in_range(largest) && float_of(largest) * multiplier <= 6.5f * TO_HALF) {
      uint32_t pairs[16];
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const uint32_t w = pair.words[i];
        pairs[i] = half_pair(round_e2m1(low_of(w) * multiplier), round_e2m1(high_of(w) * multiplier)) >> 9 | (w >> 12 & 0x00080008u);
      }
#pragma unroll
      for (int i = 0; i < 16; i++) row_codes[16 * warp + i][lane] = (uint8_t)(pairs[i] | pairs[i] >> 12);
#pragma unroll
      for (int w = 0; w < 2; w++) {
        const uint32_t* const p = pairs + 8 * w;
        const uint32_t low = p[0] + 16 * p[1] + 256 * p[2] + 4096 * p[3], high = p[4] + 16 * p[5] + 256 * p[6] + 4096 * p[7];
        blocks[0].words[w] = __byte_perm(low, high, 0x5410), blocks[1].words[w] = __byte_perm(low, high, 0x7632);
      }
    } else {
      uint32_t b = 0;
#pragma unroll
      for (int i = 0; i < 16; i++) b = One::larger(b, One::larger(magnitude<One>(low_of(pair.words[i])), magnitude<One>(high_of(pair.words[i]))));
#pragma unroll
      for (int step = 1; step < 8; step *= 2) b = One::larger(b, __shfl_xor_sync(0xffu << lane / 8 * 8, b, step));
      const BlockScale<One> scale = ScaleE4M3::of<One>(b, outer_of(q, 0), q.scaling);
      stored = scale.stored;
      blocks[0].words[0] = blocks[0].words[1] = blocks[1].words[0] = blocks[1].words[1] = 0;
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const uint32_t first = encode_nearest<One, E2M1>(low_of(pair.words[i]) * scale.multiplier);
        const uint32_t second = encode_nearest<One, E2M1>(high_of(pair.words[i]) * scale.multiplier);
        blocks[0].words[i / 8] += first << 4 * (i % 8);
        blocks[1].words[i / 8] += second << 4 * (i % 8);
        row_codes[16 * warp + i][lane] = (uint8_t)(first | second << 4);
      }
    }
    blocks[0].stored = blocks[1].stored = stored;
    tile.put(2 * lane, blocks[0]);
    tile.put(2 * lane + 1, blocks[1]);
    if (lane % 8 == 0) row_scales[warp][lane / 8] = (uint8_t)stored;
    __syncthreads();
    if (codes_t) tile.write(codes_t, scales_t, rows, cols, row, column);
    if (cols % WIDE == 0) {
      const int r = threadIdx.x / 2, half = threadIdx.x % 2;
      if (row + r < rows) {
        reinterpret_cast<uint4*>(q.codes + ((row + r) * cols + column) / 2)[half] = reinterpret_cast<const uint4*>(row_codes[r])[half];
        if (half == 0)
          *reinterpret_cast<uint32_t*>(q.scales + ((row + r) * cols + column) / 16) = *reinterpret_cast<const uint32_t*>(row_scales[r / 16]);
      }
    } else {
#pragma unroll 1
      for (int u = threadIdx.x; u < TALL * WIDE / 16; u += 256) {
        const int r = u / (WIDE / 16), block = u % (WIDE / 16);
        if (row + r >= rows || column + 16 * block >= cols) continue;
        const int64_t group = ((row + r) * cols + column) / 16 + block;
        reinterpret_cast<uint2*>(q.codes)[group] = reinterpret_cast<const uint2*>(row_codes[r])[block];
        q.scales[group] = row_scales[r / 16][block];
      }
    }
    __syncthreads();
  }
}

// Whether the images of x are made here; else quantize_cuda.h makes them.
template <class Act> __device__ bool rows_by_sixteens(const Request<NVFP4>& q, const Act* x) {
  return IsBf16<Act>::value && (q.hadamard == 0 || q.hadamard == 16) && in_sixteens(x);
}
template <class Act> __device__ bool columns_by_sixteens(const Request<NVFP4>& q, const Act* x, int64_t rows, int64_t cols) {
  if constexpr (IsBf16<Act>::value) return (q.hadamard == 0 || q.hadamard == 16) && in_blocks(x, rows, cols);
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
