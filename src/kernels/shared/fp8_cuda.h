// Images in E4M3 with blocks of 128, to nearest: a block of 256 threads makes all images of a tile of 128 x 128 values, read once. The bits of quantize.h.
//
// A thread has eight rows of eight columns as BF16, two to a word, and a warp 16 rows; two rows lie on 16 lanes each. Maxima are taken of pairs. Codes of
// the transpose pass through shared memory in groups of eight rows. Tiles at the right and lower edge may be short: as if they went on with zeros.
#pragma once
#include "found_cuda.h"
#include "quantize_cuda.h"

// Codes of four values, to nearest; NaN becomes 0x7f.
__device__ inline uint32_t four_e4m3(float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return low | (uint32_t)high << 16;
#else
  return encode_nearest<One, E4M3>(a) | encode_nearest<One, E4M3>(b) << 8 | encode_nearest<One, E4M3>(c) << 16 |
         encode_nearest<One, E4M3>(d) << 24;
#endif
}

__device__ inline BlockScale<One> fp8_scale(float largest, const Scaling& scaling) {
  return ScaleF32::of<One>(bits_of(largest), Outer<One>{1, 1, 1}, scaling);
}

// Of both halves of a word; NaN only where both are.
__device__ inline uint32_t larger_pair(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}
// `sum`, if both halves of x are finite, else NaN in one.
__device__ inline uint32_t times_zero(uint32_t x, uint32_t sum) {
  uint32_t y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(0u), "r"(sum));
  return y;
}

struct FourPairs {
  uint32_t words[4];

  __device__ void load_from(const bf16* x) {
    const uint4 v = *reinterpret_cast<const uint4*>(x);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  __device__ void load_from(const Rounded* x) {
    const Eight v = load_eight(&x->value);
#pragma unroll
    for (int j = 0; j < 4; j++) words[j] = pack_bf16(v.v[2 * j], v.v[2 * j + 1]);
  }
  // The eight codes of these values times a multiplier.
  __device__ uint2 codes(float multiplier) const {
    const auto four = [&](uint32_t a, uint32_t b) {
      return four_e4m3(low_of(a) * multiplier, high_of(a) * multiplier, low_of(b) * multiplier, high_of(b) * multiplier);
    };
    return make_uint2(four(words[0], words[1]), four(words[2], words[3]));
  }
};

// Codes of a tile, transposed: eight rows of a column at a time, at places that spread over the banks.
struct TransposedTile128 {
  uint2 groups[128][16];

  __device__ void put(int column, int group, uint2 codes) { groups[column][group ^ (column / 8)] = codes; }
  __device__ uint4 get(int column, int pair) const {
    const int turn = column / 8;
    const uint4 v = reinterpret_cast<const uint4*>(groups[column])[pair ^ turn / 2];
    return turn % 2 ? make_uint4(v.z, v.w, v.x, v.y) : v;
  }
  // To the image of the transpose, [cols, rows]; rows is a multiple of 16.
  __device__ void write(uint8_t* to, int64_t rows, int64_t cols, int64_t row, int64_t column) const {
#pragma unroll
    for (int u = threadIdx.x; u < 1024; u += 256) {
      const int c = u / 8, pair = u % 8;
      if (column + c < cols && row + 16 * pair < rows) *reinterpret_cast<uint4*>(to + (column + c) * rows + row + 16 * pair) = get(c, pair);
    }
  }
};

// This thread's part of tile `blockIdx.x` of x [rows, cols]; cols is a multiple of 8.
template <class T> struct TilePart {
  int64_t rows, cols, across, down, tile_row, tile_column;
  int warp, lane, half, l, group, height;
  int64_t row, column;
  FourPairs of_row[8];

  __device__ TilePart(int64_t rows, int64_t cols) : rows(rows), cols(cols), across((cols + 127) / 128), down((rows + 127) / 128) {
    tile_row = blockIdx.x / across, tile_column = blockIdx.x % across;
    warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = lane / 16, l = lane % 16, group = 2 * warp + half;
    row = 128 * tile_row + 8 * group, column = 128 * tile_column + 8 * l;
    const int64_t left = column < cols ? rows - row : 0;
    height = left < 8 ? (int)left : 8;
  }

  __device__ void load(const T* x) {
    const T* from = x + row * cols + column;
#pragma unroll
    for (int i = 0; i < 8; i++, from += cols) {
      of_row[i] = FourPairs{{0, 0, 0, 0}};
      if (i < height) of_row[i].load_from(from);
    }
  }

  // One kind of mapping at a time: a choice for each element would cost more than the mapping.
  __device__ void map(const Mapping& mapping) {
    if (mapping.is_identity() || height <= 0) return;
    if (mapping.squared) {
      const auto square = [](float v) { return (v < 0.0f ? 0.0f : v) * (v < 0.0f ? 0.0f : v); };
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (uint32_t& pair : of_row[i].words) pair = pack_bf16(square(low_of(pair)), square(high_of(pair)));
      return;
    }
    Eight w;
#pragma unroll
    for (int j = 0; j < 8; j++) w.v[j] = mapping.w[column + j];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float inverse = mapping.inverse[i < height ? row + i : row];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t& pair = of_row[i].words[j];
        pair = pack_bf16(low_of(pair) * inverse * w.v[2 * j], high_of(pair) * inverse * w.v[2 * j + 1]);
      }
    }
  }
};

// The largest magnitudes of 16 columns' worth of lanes for each of eight rows: lanes 2 i and 2 i + 1 of each half get that of row i.
__device__ inline float largest_of_rows(uint32_t (&pairs)[8], int lane) {
#pragma unroll
  for (int count = 4; count > 0; count /= 2) {
    const bool upper = (lane & 2 * count) != 0;
#pragma unroll
    for (int i = 0; i < count; i++) {
      const uint32_t sent = upper ? pairs[i] : pairs[i + count], kept = upper ? pairs[i + count] : pairs[i];
      pairs[i] = larger_pair(kept, __shfl_xor_sync(0xffffffffu, sent, 2 * count));
    }
  }
  const uint32_t pair = larger_pair(pairs[0], __shfl_xor_sync(0xffffffffu, pairs[0], 1));
  return fmaxf(low_of(pair), high_of(pair));
}

// What the warps of a block found of its tile.
struct FoundByWarps {
  uint32_t finite[8], any[8];

  // `largest` of this lane, and times_zero of all that it has.
  __device__ void put(float largest, uint32_t zero) {
    const uint32_t most = __reduce_max_sync(0xffffffffu, bits_of(largest));
    const bool bad = __any_sync(0xffffffffu, zero != 0);
    if (threadIdx.x % 32 == 0) finite[threadIdx.x / 32] = most, any[threadIdx.x / 32] = bad ? INFINITE_BITS : most;
  }
  __device__ Found of_tile() const {
    Found found;
#pragma unroll
    for (int w = 0; w < 8; w++) {
      found.finite = finite[w] > found.finite ? finite[w] : found.finite;
      found.any = any[w] > found.any ? any[w] : found.any;
    }
    return found;
  }
};

// The image of x, if Rows, and that of its transpose, if Columns; amax of either goes to amax and, if that is given, to amax_t. `zero` is 0.
template <bool Rows, bool Columns>
__device__ void quantize_fp8_tile(const Request<FP8>& rows_of, const Request<FP8>& columns_of, const bf16* x, int64_t rows, int64_t cols,
                                  float* amax, float* amax_t, uint32_t zero) {
  __shared__ __align__(16) TransposedTile128 transposed;
  __shared__ __align__(16) uint4 largest_pairs[8][16];
  __shared__ float multipliers[128];
  __shared__ FoundByWarps found;
  TilePart<bf16> part(rows, cols);
  part.load(x);
  part.map(rows_of.mapping);
  uint32_t of_row[8], of_column[4] = {0, 0, 0, 0}, bad = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    of_row[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint32_t magnitudes = part.of_row[i].words[j] & 0x7fff7fffu;
      if (Rows) of_row[i] = larger_pair(of_row[i], magnitudes);
      of_column[j] = larger_pair(of_column[j], magnitudes);
      bad = times_zero(magnitudes, bad);
    }
  }
  const uint32_t most = larger_pair(larger_pair(of_column[0], of_column[1]), larger_pair(of_column[2], of_column[3]));
  found.put(fmaxf(low_of(most), high_of(most)), bad);
  BlockScale<One> row_scale{};
  if (Rows) {
    row_scale = fp8_scale(largest_of_rows(of_row, part.lane), rows_of.scaling);
    const int64_t r = part.row + part.l / 2;
    if (part.l % 2 == 0 && r < rows) put_scale(rows_of.scales + part.tile_column * rows + r, row_scale.stored);
  }
  if (Columns) {
#pragma unroll
    for (int j = 0; j < 4; j++) of_column[j] = larger_pair(of_column[j], __shfl_xor_sync(0xffffffffu, of_column[j], 16));
    if (part.half == 0) largest_pairs[part.warp][part.l] = make_uint4(of_column[0], of_column[1], of_column[2], of_column[3]);
  }
  __syncthreads();
  if (Columns && threadIdx.x < 128) {
    const int c = threadIdx.x;
    uint32_t largest = 0;
#pragma unroll
    for (int w = 0; w < 8; w++) {
      const uint32_t of_warp = reinterpret_cast<const uint16_t*>(largest_pairs[w])[c];
      largest = of_warp > largest ? of_warp : largest;
    }
    const BlockScale<One> scale = fp8_scale(low_of(largest), columns_of.scaling);
    multipliers[c] = scale.multiplier;
    const int64_t line = 128 * part.tile_column + c;
    if (line < cols) put_scale(columns_of.scales + part.tile_row * cols + line, scale.stored);
  }
  if (Rows) {
    uint8_t* to = rows_of.codes + part.row * cols + part.column;
#pragma unroll
    for (int i = 0; i < 8; i++, to += cols) {
      const uint2 codes = part.of_row[i].codes(__shfl_sync(0xffffffffu, row_scale.multiplier, (part.lane & 16) + 2 * i));
      if (i < part.height) *reinterpret_cast<uint2*>(to) = codes;
    }
  }
  if (Columns) {
    __syncthreads();
    // Unknown selectors keep the compiler from holding all values of the rows as FP32 until here.
    const uint32_t low = 0x1044u + zero, high = 0x3244u + zero;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float multiplier = *(volatile const float*)(multipliers + 8 * part.l + j);
      float y[8];
#pragma unroll
      for (int i = 0; i < 8; i++) y[i] = float_of(__byte_perm(part.of_row[i].words[j / 2], 0, j % 2 ? high : low)) * multiplier;
      transposed.put(8 * part.l + j, part.group, make_uint2(four_e4m3(y[0], y[1], y[2], y[3]), four_e4m3(y[4], y[5], y[6], y[7])));
    }
    __syncthreads();
    transposed.write(columns_of.codes, rows, cols, 128 * part.tile_row, 128 * part.tile_column);
  }
  if (threadIdx.x == 255) finish_block(found.of_tile(), amax, amax_t);
}

// Columns of the 4 x 4 bytes in four rows.
__device__ inline void transpose_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t (&columns)[4]) {
  const uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
  const uint32_t ab_high = __byte_perm(a, b, 0x7362), cd_high = __byte_perm(c, d, 0x7362);
  columns[0] = __byte_perm(ab, cd, 0x5410), columns[1] = __byte_perm(ab, cd, 0x7632);
  columns[2] = __byte_perm(ab_high, cd_high, 0x5410), columns[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// A square tile in both orientations; codes_t and scales_t may be null. T is bf16 or Rounded.
template <class T>
__device__ void quantize_fp8_square_tile(const Request<FP8>& q, uint8_t* codes_t, float* scales_t, const T* x, int64_t rows, int64_t cols, float* amax) {
  __shared__ __align__(16) TransposedTile128 transposed;
  __shared__ FoundByWarps found;
  TilePart<T> part(rows, cols);
  part.load(x);
  uint32_t most = 0, bad = 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint32_t magnitudes = part.of_row[i].words[j] & 0x7fff7fffu;
      most = larger_pair(most, magnitudes);
      bad = times_zero(magnitudes, bad);
    }
  found.put(fmaxf(low_of(most), high_of(most)), bad);
  __syncthreads();
  const Found of_tile = found.of_tile();
  const BlockScale<One> scale = fp8_scale(float_of(of_tile.finite), q.scaling);
  if (threadIdx.x == 0) {
    put_scale(q.scales + part.tile_row * part.across + part.tile_column, scale.stored);
    if (scales_t) put_scale(scales_t + part.tile_column * part.down + part.tile_row, scale.stored);
  }
  uint2 codes[8];
  uint8_t* to = q.codes + part.row * cols + part.column;
#pragma unroll
  for (int i = 0; i < 8; i++, to += cols) {
    codes[i] = part.of_row[i].codes(scale.multiplier);
    if (i < part.height) *reinterpret_cast<uint2*>(to) = codes[i];
  }
  if (codes_t) {
    uint32_t upper[4], lower[4];
    transpose_bytes(codes[0].x, codes[1].x, codes[2].x, codes[3].x, upper);
    transpose_bytes(codes[4].x, codes[5].x, codes[6].x, codes[7].x, lower);
#pragma unroll
    for (int c = 0; c < 4; c++) transposed.put(8 * part.l + c, part.group, make_uint2(upper[c], lower[c]));
    transpose_bytes(codes[0].y, codes[1].y, codes[2].y, codes[3].y, upper);
    transpose_bytes(codes[4].y, codes[5].y, codes[6].y, codes[7].y, lower);
#pragma unroll
    for (int c = 0; c < 4; c++) transposed.put(8 * part.l + 4 + c, part.group, make_uint2(upper[c], lower[c]));
    __syncthreads();
    transposed.write(codes_t, rows, cols, 128 * part.tile_row, 128 * part.tile_column);
  }
  if (threadIdx.x == 255) finish_block(of_tile, amax);
}

// The image of x (`columns`: of its transpose) for any rounding, rotation and dtype, by pieces; a piece is as long as a block. Returns what this thread saw.
template <Rounding How, class Act>
__device__ Found quantize_fp8_lines(const Request<FP8>& q, const Act* x, int64_t rows, int64_t cols, bool columns) {
  static_assert(SPAN == FP8::block, "a thread has one block of a piece");
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(rows, cols, columns);
  Found found;
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, block = task % cut.across(), start = block * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, x, cut, line, start, q.hadamard, q.signs, q.mapping);
    const int count = cut.count(start);
    BLOCK_LOOP(l, cut.lanes(line)) {
      Found of_block;
      for (int i = 0; i < count; i++) of_block.add(piece.value[i][l]);
      found.add(of_block);
      const BlockScale<One> scale = fp8_scale(float_of(of_block.finite), q.scaling);
      q.scales[block * cut.lines + line + l] = float_of(scale.stored);
      for (int g = 0; g < count; g += 16) {
        const int64_t at = (line + l) * cut.length + start + g;
        float v[16];
        uint32_t words[4];
        for (int i = 0; i < 16; i++) v[i] = piece.value[g + i][l];
        const Random<One> random = How == Rounding::nearest ? Random<One>{} : draw_group(q.random, q.stream, (uint64_t)(at / 16));
        encode_group<FP8, How>(v, scale, random, words, nullptr, nullptr);
        for (int i = 0; i < 4; i++) reinterpret_cast<uint32_t*>(q.codes + at)[i] = words[i];
      }
    }
  }
  return found;
}

// The same with amax, for all threads of all blocks; `which` result of the launch it is.
template <class Act>
__device__ void quantize_fp8_lines(const Request<FP8>& q, const Act* x, int64_t rows, int64_t cols, bool columns, int rounding, float* amax,
                                   int which = 0) {
  if (rounding) finish(quantize_fp8_lines<Rounding::stochastic>(q, x, rows, cols, columns), amax, nullptr, which);
  else finish(quantize_fp8_lines<Rounding::nearest>(q, x, rows, cols, columns), amax, nullptr, which);
}
