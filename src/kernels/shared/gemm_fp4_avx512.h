// The tile of gemm_fp4.h with VPDPBUSD, which multiplies 4 unsigned by 4 signed bytes in each lane and adds them to an integer.
//
// A is signed, 2 value(a); B is unsigned, 2 value(b) + 12. An accumulator starts at the bits of the float 1.5 * 2^23 less 12 times the sum of A's block: after the
// block its bits are the float 1.5 * 2^23 + dot, and one subtraction gives dot.
#pragma once

constexpr int fp4_rows = 7, fp4_columns = 32;
// Whether panels of B are those of pack.ts.
constexpr bool fp4_panels_are_packed = true;

// Panel A, per block: quads[2 * words][rows], starts[rows], scales[rows]. Panel B, per block: quads[2 * words][columns], scales[columns].
template <class Format> constexpr int64_t fp4_a_bytes = (2 * Format::words + 2) * fp4_rows * 4;
template <class Format> constexpr int64_t fp4_b_bytes = (2 * Format::words + 1) * fp4_columns * 4;

constexpr int32_t fp4_magic = 0x4b400000;

inline __m512i fp4_doubled(__m512i nibbles, int offset) {
  const __m512i values = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  return _mm512_add_epi8(_mm512_shuffle_epi8(values, nibbles), _mm512_set1_epi8((char)offset));
}
inline __m512i fp4_low(word_vec word, int offset) {
  return fp4_doubled(_mm512_and_si512((__m512i)word, _mm512_set1_epi8(15)), offset);
}
inline __m512i fp4_high(word_vec word, int offset) {
  return fp4_doubled(_mm512_and_si512(_mm512_srli_epi16((__m512i)word, 4), _mm512_set1_epi8(15)), offset);
}

// Calls scales(i, vector) for every block: the scales of block i of rows first .. first+rows-1, at most 16, and 0 for absent ones.
template <class Format, class Scales>
inline void each_scale(const CodedOperand& x, int64_t first, int64_t rows, const Scales& scales) {
  const __mmask16 present = (__mmask16)((1u << rows) - 1);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i starts = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int32_t)x.blocks));
  const uint8_t* codes = x.scales + first * x.blocks;
  int64_t i = 0;
  for (; i + 4 <= x.blocks; i += 4) {
    __m512i four = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), present, starts, codes + i, 1);
    for (int j = 0; j < 4; j++, four = _mm512_srli_epi32(four, 8)) {
      const vec values = Format::scales((word_vec)_mm512_and_si512(four, _mm512_set1_epi32(255)));
      scales(i + j, _mm512_maskz_mov_ps(present, values));
    }
  }
  for (; i < x.blocks; i++) {
    float values[16];
    store_scales<Format, 16>(x, first, rows, i, values);
    scales(i, _mm512_loadu_ps(values));
  }
}

// Rows of one panel or two, which are `next` bytes apart.
constexpr int fp4_rows_together = 2 * fp4_rows;
template <class Format>
inline void unpack_a(const CodedOperand& x, int64_t first, int64_t rows, const ChunkedPanel<Format>& panel, int64_t next) {
  constexpr __mmask16 low_rows = (1 << fp4_rows) - 1;
  const __mmask16 high_rows = rows > fp4_rows ? low_rows << fp4_rows : 0;
  const auto put = [&](int32_t* to, __m512i x) {
    _mm512_mask_storeu_epi32(to, low_rows, x);
    _mm512_mask_storeu_epi32(to + next / 4 - fp4_rows, high_rows, x);
  };
  const __m512i twelve = _mm512_set1_epi8(12);
  each_block<Format, fp4_rows_together>(x, first, rows, [&](int64_t i, const word_vec* words) {
    int32_t* to = reinterpret_cast<int32_t*>(panel.at(i));
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < Format::words; w++) {
      const __m512i low = fp4_low(words[w], 0), high = fp4_high(words[w], 0);
      sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, twelve, low), twelve, high);
      put(to, low);
      put(to + fp4_rows, high);
      to += 2 * fp4_rows;
    }
    put(to, _mm512_sub_epi32(_mm512_set1_epi32(fp4_magic), sum));
  });
  each_scale<Format>(x, first, rows, [&](int64_t i, vec values) {
    put(reinterpret_cast<int32_t*>(panel.at(i)) + (2 * Format::words + 1) * fp4_rows, _mm512_castps_si512(values));
  });
}

template <class Format> inline void unpack_b(const CodedOperand& x, int64_t first, int64_t columns, char* panel) {
  for (int64_t half = 0; half < 2; half++) {
    const int64_t begin = first + 16 * half, left = columns - 16 * half;
    const int64_t count = left < 0 ? 0 : (left < 16 ? left : 16);
    char* const half_panel = panel + half * 64;
    each_block<Format, 16>(x, begin, count, [&](int64_t i, const word_vec* words) {
      char* to = half_panel + i * fp4_b_bytes<Format>;
      for (int w = 0; w < Format::words; w++) {
        _mm512_storeu_si512(to, fp4_low(words[w], 12));
        _mm512_storeu_si512(to + 128, fp4_high(words[w], 12));
        to += 256;
      }
    });
    each_scale<Format>(x, begin, count, [&](int64_t i, vec values) {
      _mm512_storeu_ps(half_panel + i * fp4_b_bytes<Format> + 256 * Format::words, values);
    });
  }
}

// sums[R][fp4_columns] = the terms of `blocks` blocks, in order, added to what was there unless they are the first. With each block, a line of
// `ahead` is fetched into the second cache, `step` bytes after the one before.
template <class Format, int R>
inline void fp4_tile(int64_t blocks, const char* a, const char* b, float* sums, bool first, const char* ahead, int64_t step) {
  constexpr int quads = 2 * Format::words;
  const __m512 magic = _mm512_castsi512_ps(_mm512_set1_epi32(fp4_magic));
  __m512 acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    acc[r][0] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * fp4_columns);
    acc[r][1] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * fp4_columns + 16);
  }
  for (int64_t i = 0; i < blocks; i++) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += step;
    const int32_t* a_quads = reinterpret_cast<const int32_t*>(a);
    const int32_t* starts = a_quads + quads * fp4_rows;
    __m512i dot[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm512_set1_epi32(starts[r]);
#pragma GCC unroll 16
    for (int q = 0; q < quads; q++) {
      const __m512i b0 = _mm512_loadu_si512(b + q * 128), b1 = _mm512_loadu_si512(b + q * 128 + 64);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const __m512i x = _mm512_set1_epi32(a_quads[q * fp4_rows + r]);
        dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], b0, x);
        dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], b1, x);
      }
    }
    const float* b_scales = reinterpret_cast<const float*>(b + quads * 128);
    const __m512 scale0 = _mm512_loadu_ps(b_scales), scale1 = _mm512_loadu_ps(b_scales + 16);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512 a_scale = _mm512_castsi512_ps(_mm512_set1_epi32(starts[fp4_rows + r]));
      const __m512 dot0 = _mm512_sub_ps(_mm512_castsi512_ps(dot[r][0]), magic);
      const __m512 dot1 = _mm512_sub_ps(_mm512_castsi512_ps(dot[r][1]), magic);
      acc[r][0] = _mm512_fmadd_ps(a_scale, _mm512_mul_ps(dot0, scale0), acc[r][0]);
      acc[r][1] = _mm512_fmadd_ps(a_scale, _mm512_mul_ps(dot1, scale1), acc[r][1]);
    }
    a += fp4_a_bytes<Format>;
    b += fp4_b_bytes<Format>;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    _mm512_storeu_ps(sums + r * fp4_columns, acc[r][0]);
    _mm512_storeu_ps(sums + r * fp4_columns + 16, acc[r][1]);
  }
}
