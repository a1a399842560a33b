// The tile of gemm_fp4.h with VPMADDUBSW, which multiplies unsigned by signed bytes and adds pairs to 16-bit integers.
//
// A is signed, 2 value(a); B is unsigned, 2 value(b) + 12. A block's sums stay below 2^13; VPMADDWD adds the two halves of a lane. What A's offset
// contributed is taken away by a start that is at the same time the bits of the float 1.5 * 2^23, so that one subtraction gives dot.
#pragma once

constexpr int fp4_rows = 4, fp4_columns = 8;
// Whether panels of B are those of pack.ts.
constexpr bool fp4_panels_are_packed = true;

// Panel A, per block: quads[2 * words][rows], starts[rows], scales[rows]. Panel B, per block: quads[2 * words][columns], scales[columns].
template <class Format> constexpr int64_t fp4_a_bytes = (2 * Format::words + 2) * fp4_rows * 4;
template <class Format> constexpr int64_t fp4_b_bytes = (2 * Format::words + 1) * fp4_columns * 4;

constexpr int32_t fp4_magic = 0x4b400000;

inline __m256i fp4_doubled(__m256i nibbles, int offset) {
  const __m256i values =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  return _mm256_add_epi8(_mm256_shuffle_epi8(values, nibbles), _mm256_set1_epi8((char)offset));
}
inline __m256i fp4_low(word_vec word, int offset) {
  return fp4_doubled(_mm256_and_si256((__m256i)word, _mm256_set1_epi8(15)), offset);
}
inline __m256i fp4_high(word_vec word, int offset) {
  return fp4_doubled(_mm256_and_si256(_mm256_srli_epi16((__m256i)word, 4), _mm256_set1_epi8(15)), offset);
}

constexpr int fp4_rows_together = fp4_rows;
template <class Format>
inline void unpack_a(const CodedOperand& x, int64_t first, int64_t rows, const ChunkedPanel<Format>& panel, int64_t /*next*/) {
  each_block<Format, fp4_rows>(x, first, rows, [&](int64_t i, const word_vec* words) {
    int32_t* to = reinterpret_cast<int32_t*>(panel.at(i));
    __m256i sum = _mm256_setzero_si256();
    const __m256i twelve = _mm256_set1_epi8(12), ones = _mm256_set1_epi16(1);
    for (int w = 0; w < Format::words; w++) {
      const __m256i low = fp4_low(words[w], 0), high = fp4_high(words[w], 0);
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(twelve, low), _mm256_maddubs_epi16(twelve, high));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(low));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + fp4_rows), _mm256_castsi256_si128(high));
      to += 2 * fp4_rows;
    }
    const __m256i start = _mm256_sub_epi32(_mm256_set1_epi32(fp4_magic), sum);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(start));
    store_scales<Format, fp4_rows>(x, first, rows, i, to + fp4_rows);
  });
}

template <class Format>
inline void unpack_b(const CodedOperand& x, int64_t first, int64_t columns, char* panel) {
  each_block<Format, fp4_columns>(x, first, columns, [&](int64_t i, const word_vec* words) {
    char* to = panel + i * fp4_b_bytes<Format>;
    for (int w = 0; w < Format::words; w++) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), fp4_low(words[w], 12));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), fp4_high(words[w], 12));
      to += 64;
    }
    store_scales<Format, fp4_columns>(x, first, columns, i, to);
  });
}

// sums[R][fp4_columns] = the terms of `blocks` blocks, in order, added to what was there unless they are the first.
template <class Format, int R>
inline void fp4_tile(int64_t blocks, const char* a, const char* b, float* sums, bool first, const char* /*ahead*/, int64_t /*step*/) {
  constexpr int quads = 2 * Format::words;
  const __m256 magic = _mm256_castsi256_ps(_mm256_set1_epi32(fp4_magic));
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) acc[r] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(sums + r * fp4_columns);
  for (int64_t i = 0; i < blocks; i++) {
    const int32_t* a_quads = reinterpret_cast<const int32_t*>(a);
    __m256i b_quads[quads];
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) b_quads[q] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + q * 32));
    const __m256 b_scale = _mm256_loadu_ps(reinterpret_cast<const float*>(b + quads * 32));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      __m256i pairs = _mm256_maddubs_epi16(b_quads[0], _mm256_set1_epi32(a_quads[r]));
#pragma GCC unroll 8
      for (int q = 1; q < quads; q++)
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(b_quads[q], _mm256_set1_epi32(a_quads[q * fp4_rows + r])));
      const __m256i start = _mm256_set1_epi32(a_quads[quads * fp4_rows + r]);
      const __m256i bits = _mm256_add_epi32(start, _mm256_madd_epi16(pairs, ones));
      const __m256 dot = _mm256_sub_ps(_mm256_castsi256_ps(bits), magic);
      const __m256 a_scale = _mm256_castsi256_ps(_mm256_set1_epi32(a_quads[(quads + 1) * fp4_rows + r]));
      acc[r] = _mm256_fmadd_ps(a_scale, _mm256_mul_ps(dot, b_scale), acc[r]);
    }
    a += fp4_a_bytes<Format>;
    b += fp4_b_bytes<Format>;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) _mm256_storeu_ps(sums + r * fp4_columns, acc[r]);
}
