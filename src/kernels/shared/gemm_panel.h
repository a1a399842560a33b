// The inner part of every FP32 product: operands packed into panels, and a tile of C kept in registers.
//
// A panel holds up to `width` rows of an operand, one column of them after another, so that the tile reads both operands in order:
// panel[l * width + i] = x[i][l]. A tile is up to tile_rows rows of A against tile_columns = 2 vectors of B.
#pragma once
#include "cpu.h"
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns about the undefined operands inside its own AVX-512 headers.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(__AVX512F__)
typedef __m512 vec;
constexpr int vec_lanes = 16, tile_rows = 14;
inline vec vec_set(float x) { return _mm512_set1_ps(x); }
inline vec vec_load(const float* p) { return _mm512_loadu_ps(p); }
inline void vec_store(float* p, vec x) { _mm512_storeu_ps(p, x); }
inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
typedef __m256 vec;
constexpr int vec_lanes = 8, tile_rows = 6;
inline vec vec_set(float x) { return _mm256_set1_ps(x); }
inline vec vec_load(const float* p) { return _mm256_loadu_ps(p); }
inline void vec_store(float* p, vec x) { _mm256_storeu_ps(p, x); }
inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
#else
typedef float vec __attribute__((vector_size(16)));
constexpr int vec_lanes = 4, tile_rows = 4;
inline vec vec_set(float x) { return vec{x, x, x, x}; }
inline vec vec_load(const float* p) {
  vec x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void vec_store(float* p, vec x) { memcpy(p, &x, sizeof x); }
inline vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
#endif
constexpr int tile_columns = 2 * vec_lanes;

// Floats from one panel to the next: whole-vector stores may write up to vec_lanes floats past a panel's end.
inline int64_t panel_stride(int64_t width, int64_t k) { return (width * k + 15) / 16 * 16 + (width % vec_lanes ? 16 : 0); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether a step of the tile multiplies for so long that it can also ask for what the first cache will need.
constexpr bool loads_to_spare = tile_rows >= 14;

// Memory that will be read soon: the tile asks for `step` floats of it in each step of its contraction.
struct Ahead {
  const float* next;
  int64_t step;
};

// c[R][tile_columns] = alpha * sum over l of a[l][r] * b[l][column], or added to c.
template <int R>
inline void tile(int64_t k, float alpha, const float* a, const float* b, float* c, int64_t c_stride, bool add, Ahead ahead) {
  vec acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = vec_set(0);
  const auto step = [&] {
    if constexpr (loads_to_spare) {
      __builtin_prefetch(a + 16 * tile_rows);
      for (int column = 0; column < tile_columns; column += 16) __builtin_prefetch(b + 8 * tile_columns + column);
    }
    const vec b0 = vec_load(b), b1 = vec_load(b + vec_lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const vec x = vec_set(a[r]);
      acc[r][0] = vec_fma(x, b0, acc[r][0]);
      acc[r][1] = vec_fma(x, b1, acc[r][1]);
    }
    a += tile_rows;
    b += tile_columns;
  };
  // The lines of C are asked for while the tile is being computed, one row in a step: writing them would otherwise wait for memory. For
  // reading, because asking for ownership was slower where it was measured (Zen 5).
  int64_t l = 0;
  for (; l < R && l < k; l++) {
    for (int column = 0; column < tile_columns; column += 16) __builtin_prefetch(c + l * c_stride + column);
    step();
  }
  for (; l < k; l++) {
    __builtin_prefetch(ahead.next, 0, 2);
    ahead.next += ahead.step;
    step();
  }
  const vec scale = vec_set(alpha);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    acc[r][0] = acc[r][0] * scale;
    acc[r][1] = acc[r][1] * scale;
  }
  if (add) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      acc[r][0] = vec_load(c + r * c_stride) + acc[r][0];
      acc[r][1] = vec_load(c + r * c_stride + vec_lanes) + acc[r][1];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    vec_store(c + r * c_stride, acc[r][0]);
    vec_store(c + r * c_stride + vec_lanes, acc[r][1]);
  }
}

using Tile = void (*)(int64_t k, float alpha, const float* a, const float* b, float* c, int64_t c_stride, bool add, Ahead ahead);

template <int R> constexpr void list_tiles(Tile* tiles) {
  tiles[R] = tile<R>;
  if constexpr (R > 1) list_tiles<R - 1>(tiles);
}
struct Tiles {
  Tile of_rows[tile_rows + 1] = {};
  constexpr Tiles() { list_tiles<tile_rows>(of_rows); }
};
static constexpr Tiles tiles;

#if defined(__AVX512F__)
inline void transpose(vec* x) {
  vec t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 16
    for (int j = 0; j < 2; j++) {
      const __m512d lo = _mm512_castps_pd(t[i + j]), hi = _mm512_castps_pd(t[i + j + 2]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
    }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(x[i], x[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    x[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    x[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
#elif defined(__AVX2__)
inline void transpose(vec* x) {
  vec t[8];
#pragma GCC unroll 16
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 16
    for (int j = 0; j < 2; j++) {
      x[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      x[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {
    t[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 8; i++) x[i] = t[i];
}
#else
inline void transpose(vec* x) {
  vec t[4];
  for (int i = 0; i < 4; i++) t[i] = vec{x[0][i], x[1][i], x[2][i], x[3][i]};
  for (int i = 0; i < 4; i++) x[i] = t[i];
}
#endif

// How an operand's elements become the floats that are multiplied, one or vec_lanes at a time.
typedef uint32_t word_vec __attribute__((vector_size(4 * vec_lanes)));

// E4M3: a code's bits are those of an FP32 with another bias; 2^120 makes up for it, subnormals included.
inline vec e4m3_values(word_vec code) {
  const word_vec magnitude = code & 0x7fu;
  const word_vec value = (word_vec)((vec)(magnitude << 20) * vec_set(0x1p120f)) | (code & 0x80u) << 24;
  return (vec)(magnitude == 0x7fu ? value | 0x7fc00000u : value);
}

struct ReadFloat {
  using Element = float;
  static float one(const float* p) { return *p; }
  static vec many(const float* p) { return vec_load(p); }
};
struct ReadBf16 {
  using Element = bf16;
  static float one(const bf16* p) { return load(p); }
  static vec many(const bf16* p) {
    uint16_t bits __attribute__((vector_size(2 * vec_lanes)));
    memcpy(&bits, p, sizeof bits);
    return (vec)(__builtin_convertvector(bits, word_vec) << 16);
  }
};
struct ReadRounded {
  using Element = float;
  static float one(const float* p) { return round_bf16(*p); }
  static vec many(const float* p) {
    word_vec u;
    memcpy(&u, p, sizeof u);
    const word_vec rounded = u + 0x7fffu + ((u >> 16) & 1u), quiet = u | 0x400000u;
    return (vec)(((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) & 0xffff0000u);
  }
};

// Packs rows 0..rows-1 (at most `width`) and columns 0..k-1 of an operand whose element (i, l) is x[i * row_stride + l * column_stride]; absent rows
// are zero. Writes up to vec_lanes floats past a panel whose width is no multiple of vec_lanes. `more`: the operand has a column k as well.
template <class Read, int width>
inline void pack_panel(const typename Read::Element* x, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t k,
                       float* panel, bool more = false) {
  static_assert(width % vec_lanes == 0 || width < vec_lanes);
  int64_t l = 0;
  if (column_stride == 1) {
    for (; l + vec_lanes <= k; l += vec_lanes)
      for (int64_t first = 0; first < width; first += vec_lanes) {
        constexpr int height = width < vec_lanes ? width : vec_lanes;
        vec block[vec_lanes];
        if (first + height <= rows) {
          for (int i = 0; i < height; i++) __builtin_prefetch(x + (first + i) * row_stride + l + 4 * vec_lanes);
#pragma GCC unroll 16
          for (int i = 0; i < vec_lanes; i++) block[i] = i < height ? Read::many(x + (first + i) * row_stride + l) : vec_set(0);
        } else {
          for (int i = 0; i < vec_lanes; i++)
            block[i] = first + i < rows ? Read::many(x + (first + i) * row_stride + l) : vec_set(0);
        }
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < vec_lanes; i++) vec_store(panel + (l + i) * width + first, block[i]);
      }
  } else if (row_stride == 1 && rows == width) {
    // Whole vectors are read past the width of the panel, but not past the end of the operand.
    const int64_t whole = more || width % vec_lanes == 0 ? k : k - 1;
    for (; l < whole; l++)
#pragma GCC unroll 4
      for (int i = 0; i < width; i += vec_lanes) vec_store(panel + l * width + i, Read::many(x + l * column_stride + i));
  }
  for (; l < k; l++) {
    const auto* column = x + l * column_stride;
    float* to = panel + l * width;
    for (int64_t i = 0; i < width; i++) to[i] = i < rows ? Read::one(column + i * row_stride) : 0;
  }
}

// The same for any number of rows: panels of `width` rows, `stride` floats from one to the next. Where rows lie side by side, a few
// columns go into all panels before the next ones are read: each of them is another page of memory.
template <class Read, int width>
inline void pack_panels(const typename Read::Element* x, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t k,
                        float* panels, int64_t stride) {
  const int64_t at_once = column_stride == 1 ? k : 16;
  for (int64_t l = 0; l < k; l += at_once)
    for (int64_t i = 0, p = 0; i < rows; i += width, p++)
      pack_panel<Read, width>(x + i * row_stride + l * column_stride, row_stride, column_stride, rows - i < width ? rows - i : width,
                              k - l < at_once ? k - l : at_once, panels + p * stride + l * width, l + at_once < k);
}

template <class T> struct ReadOf;
template <> struct ReadOf<float> {
  using Read = ReadFloat;
};
template <> struct ReadOf<bf16> {
  using Read = ReadBf16;
};
