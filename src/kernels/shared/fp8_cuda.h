// Images in E4M3 with blocks of 128 of BF16 values, where whole tiles of 128 allow; the bits of quantize.h. Rows: 16 lanes have a block. Columns and square
// tiles: a block of 256 threads has 128 rows; each of its warps has 16 of them, each lane two columns.
#pragma once
#include "sixteens_cuda.h"

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

// Block `block` of row r, by 16 lanes; `across` blocks of which the last may be short, cols being a multiple of 8.
__device__ inline void quantize_fp8_row_block(const Request<FP8>& q, const bf16* x, int64_t cols, int64_t across, int64_t r, int64_t block) {
  const int lane = threadIdx.x % 16;
  const int64_t c = block * 128 + lane * 8;
  Eight v{};
  if (c < cols) v = load_eight(x + r * cols + c);
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v.v[i]));
#pragma unroll
  for (int step = 8; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffu << (threadIdx.x & 16), largest, step));
  const BlockScale<One> scale = fp8_scale(largest, q.scaling);
  if (lane == 0) put_scale(q.scales + r * across + block, scale.stored);
  if (c >= cols) return;
#pragma unroll
  for (int i = 0; i < 8; i++) v.v[i] = v.v[i] * scale.multiplier;
  *reinterpret_cast<uint2*>(q.codes + r * cols + c) =
      make_uint2(four_e4m3(v.v[0], v.v[1], v.v[2], v.v[3]), four_e4m3(v.v[4], v.v[5], v.v[6], v.v[7]));
}

__device__ inline void quantize_fp8_rows_by_lanes(const Request<FP8>& q, const bf16* x, int64_t rows, int64_t cols) {
  const int64_t across = (cols + 127) / 128;
  GRID_LOOP(u, rows * across * 16) quantize_fp8_row_block(q, x, cols, across, u / 16 / across, u / 16 % across);
}

// Codes of 64 columns of 128 rows, transposed; rows of 144 bytes lie on different banks.
struct TransposedFp8 {
  uint4 codes[WIDE][TALL / 16 + 1];

  // The codes of a lane's two columns.
  __device__ void put(const ColumnPair& pair, float multiplier0, float multiplier1) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const float multiplier = c ? multiplier1 : multiplier0;
      float v[16];
      pair.get(c, v);
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        words[i] = four_e4m3(v[4 * i] * multiplier, v[4 * i + 1] * multiplier, v[4 * i + 2] * multiplier, v[4 * i + 3] * multiplier);
      codes[2 * lane + c][warp] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
  // To the image of the transpose, [cols, rows].
  __device__ void write(uint8_t* to, int64_t rows, int64_t row, int64_t column) const {
#pragma unroll
    for (int u = threadIdx.x; u < WIDE * TALL / 16; u += 256)
      reinterpret_cast<uint4*>(to + (column + u / 8) * rows + row)[u % 8] = codes[u / 8][u % 8];
  }
};

// The image of the transpose, and if `rows_of` is given, of x itself, for which cols must be a multiple of 128: its blocks are read again while they are in
// the first cache.
__device__ inline void quantize_fp8_columns_by_tiles(const Request<FP8>& q, const bf16* x, int64_t rows, int64_t cols, const Request<FP8>* rows_of = nullptr) {
  __shared__ TransposedFp8 tile;
  __shared__ float largest[8][WIDE];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int halves = rows_of ? 2 : 1;
  const int64_t across = cols / (WIDE * halves);
  EACH_BLOCK(task, rows / TALL * across) {
    const int64_t row = task / across * TALL;
#pragma unroll 1
    for (int h = 0; h < halves; h++) {
      const int64_t column = (task % across * halves + h) * WIDE;
      ColumnPair pair;
      pair.load_from(x + (row + 16 * warp) * cols + column + 2 * lane, cols);
      float low = 0, high = 0;
#pragma unroll
      for (int i = 0; i < 16; i++) {
        low = fmaxf(low, fabsf(float_of(pair.words[i] << 16)));
        high = fmaxf(high, fabsf(float_of(pair.words[i] & 0xffff0000u)));
      }
      largest[warp][2 * lane] = low, largest[warp][2 * lane + 1] = high;
      __syncthreads();
#pragma unroll
      for (int w = 0; w < 8; w++) low = fmaxf(low, largest[w][2 * lane]), high = fmaxf(high, largest[w][2 * lane + 1]);
      const BlockScale<One> first = fp8_scale(low, q.scaling), second = fp8_scale(high, q.scaling);
      tile.put(pair, first.multiplier, second.multiplier);
      if (warp < 2) put_scale(q.scales + (column + 2 * lane + warp) * (rows / TALL) + row / TALL, warp ? second.stored : first.stored);
      __syncthreads();
      tile.write(q.codes, rows, row, column);
      __syncthreads();
    }
    if (rows_of)
      for (int r = threadIdx.x / 16; r < TALL; r += 16) quantize_fp8_row_block(*rows_of, x, cols, across, row + r, task % across);
  }
}

// Tiles of 128 x 128 to nearest, both orientations; codes_t and scales_t may be null.
__device__ inline void quantize_fp8_square_by_tiles(const Request<FP8>& q, uint8_t* codes_t, float* scales_t, const bf16* x, int64_t rows,
                                                    int64_t cols) {
  __shared__ TransposedFp8 tile;
  __shared__ float largest[8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t across = cols / 128, down = rows / 128;
  EACH_BLOCK(task, down * across) {
    const int64_t row = task / across * 128, column = task % across * 128;
    ColumnPair pairs[2];
    float most = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      pairs[h].load_from(x + (row + 16 * warp) * cols + column + WIDE * h + 2 * lane, cols);
#pragma unroll
      for (int i = 0; i < 16; i++)
        most = fmaxf(most, fmaxf(fabsf(float_of(pairs[h].words[i] << 16)), fabsf(float_of(pairs[h].words[i] & 0xffff0000u))));
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (lane == 0) largest[warp] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < 8; w++) most = fmaxf(most, largest[w]);
    const BlockScale<One> scale = fp8_scale(most, q.scaling);
    if (threadIdx.x == 0) {
      put_scale(q.scales + row / 128 * across + column / 128, scale.stored);
      if (scales_t) put_scale(scales_t + column / 128 * down + row / 128, scale.stored);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const uint32_t word = pairs[h].words[i];
        const uint32_t codes = four_e4m3(float_of(word << 16) * scale.multiplier, float_of(word & 0xffff0000u) * scale.multiplier, 0, 0);
        *reinterpret_cast<uint16_t*>(q.codes + (row + 16 * warp + i) * cols + column + WIDE * h + 2 * lane) = (uint16_t)codes;
      }
      if (!codes_t) continue;
      tile.put(pairs[h], scale.multiplier, scale.multiplier);
      __syncthreads();
      tile.write(codes_t, rows, row, column + WIDE * h);
      __syncthreads();
    }
    __syncthreads();
  }
}
