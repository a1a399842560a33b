// The product of two images with E2M1 elements, packed two to a byte, and one scale per block of each row.
//
//   dot_i = sum over block i of 2 value(a) * 2 value(b)         an integer below 2^13, so exact in any order
//   acc   = sum over blocks i, in order, of a_scale_i * b_scale_i * dot_i         each term exact in FP32, each addition rounded
//   c     = factor * (acc / 4)
//
// Both operands are unpacked into panels of whole blocks, B perhaps before (pack.ts). A word of 4 bytes gives two quads: its 4 low nibbles, then its 4 high ones; the order
// within a block is the same in both operands and otherwise free. The tile for each instruction level is in a header of its own.
#pragma once
#include "gemm.h"
#include "gemm_panel.h"

// Elements of a block are `words` words of 8 nibbles.
struct Nvfp4 {
  static constexpr int words = 2;
  static float scale(uint8_t code) { return decode<One, E4M3>(code); }
  static vec scales(word_vec codes) { return e4m3_values(codes); }
};
struct Mxfp4 {
  static constexpr int words = 4;
  static float scale(uint8_t code) { return ue8m0_value(code); }
  static vec scales(word_vec codes) {
    const word_vec bits = codes == 0 ? word_vec{} + 0x400000u : codes << 23;
    return (vec)(codes == 255 ? word_vec{} + 0x7fc00000u : bits);
  }
};

template <class Format> struct ScaleValues {
  float of_code[256];
  ScaleValues() {
    for (int code = 0; code < 256; code++) of_code[code] = Format::scale((uint8_t)code);
  }
};
template <class Format> static const ScaleValues<Format> scale_values;

struct CodedOperand {
  const uint8_t* codes;
  const uint8_t* scales;
  int64_t rows, blocks;
};

// Calls block(i, words) for every block: words[w] holds word w of the block of rows first .. first+rows-1, at most most_rows, a row in each lane
// and 0 in absent ones.
template <class Format, int most_rows, class Block>
inline void each_block(const CodedOperand& x, int64_t first, int64_t rows, const Block& block) {
  constexpr int together = vec_lanes / Format::words;
  const int64_t row_bytes = x.blocks * Format::words * 4;
  for (int64_t i = 0; i < x.blocks; i += together) {
    const int64_t count = x.blocks - i < together ? x.blocks - i : together;
    const uint8_t* codes = x.codes + first * row_bytes + i * Format::words * 4;
    vec lanes[vec_lanes];
    if (count == together && rows == most_rows) {
#pragma GCC unroll 16
      for (int r = 0; r < vec_lanes; r++) {
        lanes[r] = vec_set(0);
        if (r < most_rows) memcpy(&lanes[r], codes + r * row_bytes, sizeof(vec));
      }
    } else {
      for (int64_t r = 0; r < vec_lanes; r++) {
        lanes[r] = vec_set(0);
        if (r < rows) memcpy(&lanes[r], codes + r * row_bytes, (size_t)(count * Format::words * 4));
      }
    }
    transpose(lanes);
    for (int64_t j = 0; j < count; j++) block(i + j, reinterpret_cast<const word_vec*>(lanes + j * Format::words));
  }
}

// Blocks of the contraction for which a panel of B stays in the first cache.
template <class Format> constexpr int64_t fp4_blocks_at_once = 64 / Format::words;

// A panel cut along the contraction into chunks of fp4_blocks_at_once blocks, `stride` bytes from one to the next.
template <class Format> struct ChunkedPanel {
  char* data;
  int64_t stride, block_bytes;
  char* at(int64_t block) const {
    return data + block / fp4_blocks_at_once<Format> * stride + block % fp4_blocks_at_once<Format> * block_bytes;
  }
};

// The scales of block i of rows first .. first+rows-1 as floats; those of absent rows are 0.
template <class Format, int width>
inline void store_scales(const CodedOperand& x, int64_t first, int64_t rows, int64_t i, void* to) {
  float scales[width] = {};
  for (int64_t r = 0; r < rows; r++) scales[r] = scale_values<Format>.of_code[x.scales[(first + r) * x.blocks + i]];
  memcpy(to, scales, sizeof scales);
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "gemm_fp4_avx512.h"
#elif defined(__AVX2__)
#include "gemm_fp4_avx2.h"
#else
#include "gemm_fp4_portable.h"
#endif

using Fp4Tile = void (*)(int64_t blocks, const char* a, const char* b, float* sums, bool first, const char* ahead, int64_t step);
template <class Format, int R> constexpr void list_fp4_tiles(Fp4Tile* tiles) {
  tiles[R] = fp4_tile<Format, R>;
  if constexpr (R > 1) list_fp4_tiles<Format, R - 1>(tiles);
}
template <class Format> struct Fp4Tiles {
  Fp4Tile of_rows[fp4_rows + 1] = {};
  constexpr Fp4Tiles() { list_fp4_tiles<Format, fp4_rows>(of_rows); }
};
template <class Format> static constexpr Fp4Tiles<Format> fp4_tiles;

// What is unpacked of B at a time, in bytes.
constexpr int64_t fp4_unpacked_bytes = int64_t{1} << 26;

// What a sum is multiplied by: `of_tensor`, or of_element(row, column) if it `varies`.
template <class Element> struct Factor {
  bool varies;
  float of_tensor;
  Element of_element;
};

// A task's part of C: row panels top .. top+count-1 against panels of B that are unpacked already.
template <class Format, class Element> struct Fp4Task {
  static constexpr int64_t at_once = fp4_blocks_at_once<Format>;
  static constexpr int64_t chunk_bytes = at_once * fp4_a_bytes<Format>;
  static constexpr int64_t tile_floats = fp4_rows * fp4_columns;

  const Output& c;
  const Factor<Element>& factor;
  int64_t m, n, blocks, top, count;
  char* a_panels;
  float* sums;

  // Chunk after chunk, and in a chunk panel after panel: the order in which they are read.
  void unpack(const CodedOperand& a) {
    const int64_t chunks = ceil_div(blocks, at_once);
    a_panels = static_cast<char*>(scratch(1, chunks * count * chunk_bytes));
    sums = static_cast<float*>(scratch(2, count * tile_floats * 4));
    for (int64_t p = 0; p < count; p += fp4_rows_together / fp4_rows) {
      const ChunkedPanel<Format> panel{a_panels + p * chunk_bytes, count * chunk_bytes, fp4_a_bytes<Format>};
      const int64_t first = (top + p) * fp4_rows, end = (top + count) * fp4_rows < m ? (top + count) * fp4_rows : m;
      unpack_a<Format>(a, first, end - first < fp4_rows_together ? end - first : fp4_rows_together, panel, chunk_bytes);
    }
  }

  int64_t rows(int64_t p) const {
    const int64_t left = m - (top + p) * fp4_rows;
    return left < fp4_rows ? left : fp4_rows;
  }

  void multiply(const char* b_panel, int64_t column) const {
    for (int64_t i = 0; i < blocks; i += at_once) {
      const int64_t length = blocks - i < at_once ? blocks - i : at_once;
      const char* chunk = a_panels + i / at_once * count * chunk_bytes;
      const char* b_chunk = b_panel + i * fp4_b_bytes<Format>;
      // What follows this chunk of B is asked for while all row panels pass by.
      const int64_t step = ceil_div(fp4_b_bytes<Format>, count);
      for (int64_t p = 0; p < count; p++) {
        float* tile_sums = sums + p * tile_floats;
        const int64_t height = rows(p);
        if (i + length == blocks && !c.is_bf16)
          prefetch_tile(static_cast<const float*>(c.data) + (top + p) * fp4_rows * c.stride + column, c.stride, height,
                        fp4_columns);
        fp4_tiles<Format>.of_rows[height](length, chunk + p * chunk_bytes, b_chunk, tile_sums, i == 0,
                                          b_chunk + length * fp4_b_bytes<Format> + p * length * step, step);
        if (i + length == blocks) write(p, height, column, tile_sums);
      }
    }
  }

  void write(int64_t p, int64_t height, int64_t column, const float* tile_sums) const {
    const int64_t first = (top + p) * fp4_rows;
    if (n - column >= fp4_columns && !c.is_bf16 && !factor.varies) {
      float* to = static_cast<float*>(c.data) + first * c.stride + column;
      if (c.accumulate) write_rows<true>(height, tile_sums, to);
      else write_rows<false>(height, tile_sums, to);
      return;
    }
    const int64_t columns = n - column < fp4_columns ? n - column : fp4_columns;
    for (int64_t r = 0; r < height; r++)
      for (int64_t j = 0; j < columns; j++) {
        const float times = factor.varies ? factor.of_element(first + r, column + j) : factor.of_tensor;
        c.put(first + r, column + j, times * (tile_sums[r * fp4_columns + j] * 0.25f));
      }
  }

  template <bool add> void write_rows(int64_t height, const float* tile_sums, float* to) const {
    const vec times = vec_set(factor.of_tensor), quarter = vec_set(0.25f);
    for (int64_t r = 0; r < height; r++)
#pragma GCC unroll 4
      for (int j = 0; j < fp4_columns; j += vec_lanes) {
        const vec y = times * (vec_load(tile_sums + r * fp4_columns + j) * quarter);
        float* at = to + r * c.stride + j;
        vec_store(at, add ? vec_load(at) + y : y);
      }
  }
};

// Panels of pack.ts if the tiles can read them, else null.
inline const char* packed_for_tiles(const uint8_t* packed, int64_t columns) {
  return fp4_panels_are_packed && columns == fp4_columns ? reinterpret_cast<const char*>(packed) : nullptr;
}

// c (+)= factor * a sum over blocks. `packed`: all panels of B, or null.
template <class Format, class Element>
static void multiply_fp4(const Output& c, const CodedOperand& a, const CodedOperand& b, const Factor<Element>& factor,
                         const char* packed) {
  const int64_t blocks = a.blocks, m = a.rows, n = b.rows, threads = thread_count();
  const int64_t b_stride = fp4_b_bytes<Format> * blocks;
  const int64_t row_panels = ceil_div(m, fp4_rows), all_panels = ceil_div(n, fp4_columns);
  const int64_t most = packed ? all_panels : fp4_unpacked_bytes / (b_stride + 1), panels_per_step = most < 1 ? 1 : most;
  int64_t height = ceil_div(row_panels, 4 * threads);
  height = height < 2 ? 2 : (height > 16 ? 16 : height);
  // As many tasks for one thread as for another.
  const int64_t even = ceil_div(ceil_div(row_panels, height), threads) * threads;
  if (2 * even <= row_panels) height = ceil_div(row_panels, even);
  const int64_t tall = ceil_div(row_panels, height);
  const auto unpack = [&](int64_t panel, char* to) {
    const int64_t first = panel * fp4_columns, columns = n - first < fp4_columns ? n - first : fp4_columns;
    unpack_b<Format>(b, first, columns, to);
  };
  // Where one task has all rows, no other reads the panels of B that it does: it unpacks them itself.
  const bool few = tall == 1 && !packed;
  for (int64_t left = 0; left < all_panels; left += panels_per_step) {
    const int64_t panels = all_panels - left < panels_per_step ? all_panels - left : panels_per_step;
    char* unpacked = few || packed ? nullptr : static_cast<char*>(scratch(0, b_stride * panels));
    if (unpacked) parallel_for(panels, [&](int64_t q) { unpack(left + q, unpacked + q * b_stride); });
    const char* b_panels = packed ? packed + left * b_stride : unpacked;
    const int64_t wanted = ceil_div(4 * threads, tall), across = wanted < panels ? wanted : panels;
    parallel_for(tall * across, [&](int64_t task) {
      const int64_t top = task / across * height, part = task % across;
      const int64_t count = row_panels - top < height ? row_panels - top : height;
      Fp4Task<Format, Element> block{c, factor, m, n, blocks, top, count, nullptr, nullptr};
      block.unpack(a);
      char* own = few ? static_cast<char*>(scratch(3, b_stride)) : nullptr;
      for (int64_t q = panels * part / across; q < panels * (part + 1) / across; q++) {
        if (few) unpack(left + q, own);
        block.multiply(few ? own : b_panels + q * b_stride, (left + q) * fp4_columns);
      }
    });
  }
}
