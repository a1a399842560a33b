// The tile of gemm_fp4.h with VPDPBUSD, which multiplies 4 unsigned by 4 signed bytes in each lane and adds them to an integer.
//
// A is signed, 2 value(a); B is unsigned, 2 value(b) + 12. An accumulator starts at the bits of the float 1.5 * 2^23 less 12 times the sum of A's block: after the
// block its bits are the float 1.5 * 2^23 + dot, and one subtraction gives dot.
#pragma once

constexpr int fp4_rows = 7, fp4_columns = 32;

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

template <class Format>
inline void unpack_a(const CodedOperand& x, int64_t first, int64_t rows, const ChunkedPanel<Format>& panel) {
  constexpr __mmask16 stored = (1 << fp4_rows) - 1;
  const __m512i twelve = _mm512_set1_epi8(12);
  each_block<Format, fp4_rows>(x, first, rows, [&](int64_t i, const word_vec* words) {
    int32_t* to = reinterpret_cast<int32_t*>(panel.at(i));
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < Format::words; w++) {
      const __m512i low = fp4_low(words[w], 0), high = fp4_high(words[w], 0);
      sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, twelve, low), twelve, high);
      _mm512_mask_storeu_epi32(to, stored, low);
      _mm512_mask_storeu_epi32(to + fp4_rows, stored, high);
      to += 2 * fp4_rows;
    }
    _mm512_mask_storeu_epi32(to, stored, _mm512_sub_epi32(_mm512_set1_epi32(fp4_magic), sum));
    store_scales<Format, fp4_rows>(x, first, rows, i, to + fp4_rows);
  });
}

template <class Format> inline void unpack_b(const CodedOperand& x, int64_t first, int64_t columns, char* panel) {
  for (int64_t half = 0; half < 2; half++) {
    const int64_t begin = first + 16 * half, left = columns - 16 * half;
    const int64_t count = left < 0 ? 0 : (left < 16 ? left : 16);
    each_block<Format, 16>(x, begin, count, [&](int64_t i, const word_vec* words) {
      char* to = panel + i * fp4_b_bytes<Format> + half * 64;
      for (int w = 0; w < Format::words; w++) {
        _mm512_storeu_si512(to, fp4_low(words[w], 12));
        _mm512_storeu_si512(to + 128, fp4_high(words[w], 12));
        to += 256;
      }
      store_scales<Format, 16>(x, begin, count, i, to);
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
