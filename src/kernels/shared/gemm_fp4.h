// The product of two images with E2M1 elements, packed two to a byte, and one scale per block of each row.
//
//   dot_i = sum over block i of 2 value(a) * 2 value(b)         an integer below 2^13, so exact in any order
//   acc   = sum over blocks i, in order, of a_scale_i * b_scale_i * dot_i         each term exact in FP32, each addition rounded
//   c     = finish(acc / 4)
//
// Both operands are unpacked into panels of whole blocks. A word of 4 bytes gives two quads: its 4 low nibbles, then its 4 high ones; the order
// within a block is the same in both operands and otherwise free. The tile for each instruction level is in a header of its own.
#pragma once
#include "gemm.h"
#include "gemm_panel.h"

// Elements of a block are `words` words of 8 nibbles.
struct Nvfp4 {
  static constexpr int words = 2;
  static float scale(uint8_t code) { return e4m3_value(code); }
};
struct Mxfp4 {
  static constexpr int words = 4;
  static float scale(uint8_t code) { return ue8m0_value(code); }
};

struct CodedOperand {
  const uint8_t* codes;
  const uint8_t* scales;
  int64_t rows, blocks;
};

// Calls block(i, words) for every block: words[w] holds word w of the block of rows first .. first+rows-1, a row in each lane, 0 in absent ones.
template <class Format, class Block>
inline void each_block(const CodedOperand& x, int64_t first, int64_t rows, const Block& block) {
  constexpr int together = vec_lanes / Format::words;
  const int64_t row_bytes = x.blocks * Format::words * 4;
  for (int64_t i = 0; i < x.blocks; i += together) {
    const int64_t count = x.blocks - i < together ? x.blocks - i : together;
    vec lanes[vec_lanes];
    for (int64_t r = 0; r < vec_lanes; r++) {
      lanes[r] = vec_set(0);
      if (r < rows)
        memcpy(&lanes[r], x.codes + (first + r) * row_bytes + i * Format::words * 4, (size_t)(count * Format::words * 4));
    }
    transpose(lanes);
    for (int64_t j = 0; j < count; j++) block(i + j, reinterpret_cast<const word_vec*>(lanes + j * Format::words));
  }
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "gemm_fp4_avx512.h"
#elif defined(__AVX2__)
#include "gemm_fp4_avx2.h"
#else
#include "gemm_fp4_portable.h"
#endif

using Fp4Tile = void (*)(int64_t blocks, const char* a, const char* b, float* sums);
template <class Format, int R> constexpr void list_fp4_tiles(Fp4Tile* tiles) {
  tiles[R] = fp4_tile<Format, R>;
  if constexpr (R > 1) list_fp4_tiles<Format, R - 1>(tiles);
}
template <class Format> struct Fp4Tiles {
  Fp4Tile of_rows[fp4_rows + 1] = {};
  constexpr Fp4Tiles() { list_fp4_tiles<Format, fp4_rows>(of_rows); }
};

// Blocks of the contraction for which a panel of B stays in the first cache.
template <class Format> constexpr int64_t fp4_blocks_at_once = 32 / Format::words;
// What is unpacked of B at a time, in bytes.
constexpr int64_t fp4_unpacked_bytes = int64_t{1} << 26;

// finish(row, column, count, acc, y): y[j] = what c[row, column + j] receives, of acc[j] = 4 times the sum.
template <class Format, class Finish>
static void multiply_fp4(const Output& c, const CodedOperand& a, const CodedOperand& b, const Finish& finish) {
  static constexpr Fp4Tiles<Format> tiles;
  const int64_t blocks = a.blocks, m = a.rows, n = b.rows;
  const int64_t a_stride = fp4_a_bytes<Format> * blocks + 64, b_stride = fp4_b_bytes<Format> * blocks;
  const int64_t most = fp4_unpacked_bytes / (b_stride + 1), panels_per_step = most < 1 ? 1 : most;
  const int64_t row_panels = ceil_div(m, fp4_rows), threads = thread_count();
  int64_t height = ceil_div(row_panels, 4 * threads);
  height = height < 2 ? 2 : (height > 16 ? 16 : height);
  const int64_t tall = ceil_div(row_panels, height), all_panels = ceil_div(n, fp4_columns);
  for (int64_t left = 0; left < all_panels; left += panels_per_step) {
    const int64_t panels = all_panels - left < panels_per_step ? all_panels - left : panels_per_step;
    char* b_panels = static_cast<char*>(scratch(0, b_stride * panels + 64));
    float* b_faults = static_cast<float*>(scratch(1, panels * fp4_columns * 4));
    parallel_for(panels, [&](int64_t q) {
      const int64_t first = (left + q) * fp4_columns, columns = n - first < fp4_columns ? n - first : fp4_columns;
      unpack_b<Format>(b, first, columns, b_panels + q * b_stride, b_faults + q * fp4_columns);
    });
    const int64_t wanted = ceil_div(4 * threads, tall), across = wanted < panels ? wanted : panels;
    parallel_for(tall * across, [&](int64_t task) {
      const int64_t top = task / across * height, part = task % across;
      const int64_t count = row_panels - top < height ? row_panels - top : height;
      constexpr int64_t tile_floats = fp4_rows * fp4_columns;
      char* a_panels = static_cast<char*>(scratch(2, a_stride * count));
      float* sums = static_cast<float*>(scratch(3, count * (tile_floats + fp4_rows) * 4));
      float* a_faults = sums + count * tile_floats;
      for (int64_t p = 0; p < count; p++) {
        const int64_t first = (top + p) * fp4_rows, rows = m - first < fp4_rows ? m - first : fp4_rows;
        unpack_a<Format>(a, first, rows, a_panels + p * a_stride, a_faults + p * fp4_rows);
      }
      const int64_t first_row = top * fp4_rows, rows = m - first_row < count * fp4_rows ? m - first_row : count * fp4_rows;
      for (int64_t q = panels * part / across; q < panels * (part + 1) / across; q++) {
        for (int64_t r = 0; r < rows; r++)
          for (int64_t j = 0; j < fp4_columns; j++) sums[r * fp4_columns + j] = a_faults[r] + b_faults[q * fp4_columns + j];
        for (int64_t i = 0; i < blocks; i += fp4_blocks_at_once<Format>) {
          const int64_t length = blocks - i < fp4_blocks_at_once<Format> ? blocks - i : fp4_blocks_at_once<Format>;
          const char* b_panel = b_panels + q * b_stride + i * fp4_b_bytes<Format>;
          for (int64_t p = 0; p < count; p++) {
            const int64_t below = rows - p * fp4_rows, height = below < fp4_rows ? below : fp4_rows;
            tiles.of_rows[height](length, a_panels + p * a_stride + i * fp4_a_bytes<Format>, b_panel,
                                  sums + p * tile_floats);
          }
        }
        const int64_t column = (left + q) * fp4_columns, columns = n - column < fp4_columns ? n - column : fp4_columns;
        for (int64_t r = 0; r < rows; r++) {
          float y[fp4_columns];
          finish(first_row + r, column, columns, sums + r * fp4_columns, y);
          c.put_row(first_row + r, column, columns, y);
        }
      }
    });
  }
}
