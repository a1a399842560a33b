// The tile of gemm_fp4.h with VPDPBUSD, which multiplies 4 unsigned by 4 signed bytes in each lane and adds them to an integer.
//
// A is signed, 2 value(a); B is unsigned, 2 value(b) + 12. An accumulator starts at the bits of the float 1.5 * 2^23 less 12 times the sum of A's block: after the
// block its bits are the float 1.5 * 2^23 + dot, and one subtraction gives dot.
//
// NVFP4: the scale a = (1 + x/8) * 2^e, x = 0..7. B's panel holds b * (1 + x/8) for all eight x, so that a * b is one of these with e added to its exponent
// field: the units that multiply are left with 4 dot products and one FMA in each 16 x 16 products. A zero scale has no such form; its block gets zero elements
// instead. A scale that is NaN makes its whole row or column of C NaN: a "fault", with which the sums start.
#pragma once

constexpr int fp4_rows = 7, fp4_columns = 32;

// Panel A, per block: quads[2 * words][rows], starts[rows], then NVFP4: exponents[rows], table offsets[rows]; MXFP4: scales[rows].
// Panel B, per block: quads[2 * words][columns], then NVFP4: tables[8][columns]; MXFP4: scales[columns].
template <class Format> constexpr bool fp4_tabled = false;
template <> constexpr bool fp4_tabled<Nvfp4> = true;
template <class Format>
constexpr int64_t fp4_a_bytes = (2 * Format::words + (fp4_tabled<Format> ? 3 : 2)) * fp4_rows * 4;
template <class Format>
constexpr int64_t fp4_b_bytes = (2 * Format::words + (fp4_tabled<Format> ? 8 : 1)) * fp4_columns * 4;

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

// An E4M3 scale as (1 + x/8) * 2^e.
struct SplitScale {
  int32_t exponent;
  int32_t offset;
};
struct SplitScales {
  SplitScale of_code[256] = {};
  constexpr SplitScales() {
    for (int code = 0; code < 256; code++) {
      int exponent = (code >> 3) & 15, x = code & 7;
      if (exponent == 0 && x > 0) {
        exponent = 1;
        for (; x < 8; x *= 2) exponent--;
        x -= 8;
      }
      of_code[code].exponent = (int32_t)((uint32_t)(exponent - 7) << 23 ^ (uint32_t)(code & 0x80) << 24);
      of_code[code].offset = x * fp4_columns * 4;
    }
  }
};
static constexpr SplitScales split_scales;

template <class Format>
inline void unpack_a(const CodedOperand& x, int64_t first, int64_t rows, char* panel, float* faults) {
  for (int r = 0; r < fp4_rows; r++) faults[r] = 0;
  each_block<Format>(x, first, rows, [&](int64_t i, const word_vec* words) {
    int32_t* to = reinterpret_cast<int32_t*>(panel + i * fp4_a_bytes<Format>);
    alignas(64) int32_t exponents[16] = {}, offsets[16] = {};
    alignas(64) float scales[16] = {};
    __mmask16 kept = 0xffff;
    for (int64_t r = 0; r < rows; r++) {
      const uint8_t code = x.scales[(first + r) * x.blocks + i];
      if constexpr (fp4_tabled<Format>) {
        exponents[r] = split_scales.of_code[code].exponent;
        offsets[r] = split_scales.of_code[code].offset;
        if ((code & 0x7f) == 0) kept &= (__mmask16)~(1 << r);
        if ((code & 0x7f) == 0x7f) faults[r] = float_of(0x7fc00000u);
      } else {
        scales[r] = Format::scale(code);
      }
    }
    __m512i sum = _mm512_setzero_si512();
    for (int w = 0; w < Format::words; w++) {
      const __m512i low = _mm512_maskz_mov_epi32(kept, fp4_low(words[w], 0));
      const __m512i high = _mm512_maskz_mov_epi32(kept, fp4_high(words[w], 0));
      sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, _mm512_set1_epi8(12), low), _mm512_set1_epi8(12), high);
      _mm512_storeu_si512(to, low);
      _mm512_storeu_si512(to + fp4_rows, high);
      to += 2 * fp4_rows;
    }
    _mm512_storeu_si512(to, _mm512_sub_epi32(_mm512_set1_epi32(fp4_magic), sum));
    if constexpr (fp4_tabled<Format>) {
      for (int r = 0; r < fp4_rows; r++) to[fp4_rows + r] = exponents[r];
      for (int r = 0; r < fp4_rows; r++) to[2 * fp4_rows + r] = offsets[r];
    } else {
      memcpy(to + fp4_rows, scales, sizeof(float) * fp4_rows);
    }
  });
}

template <class Format>
inline void unpack_b(const CodedOperand& x, int64_t first, int64_t columns, char* panel, float* faults) {
  for (int j = 0; j < fp4_columns; j++) faults[j] = 0;
  for (int64_t half = 0; half < 2; half++) {
    const int64_t begin = first + 16 * half, count = columns - 16 * half < 16 ? columns - 16 * half : 16;
    each_block<Format>(x, begin, count, [&](int64_t i, const word_vec* words) {
      char* to = panel + i * fp4_b_bytes<Format> + half * 64;
      alignas(64) float scales[16] = {};
      for (int64_t j = 0; j < count; j++) {
        const uint8_t code = x.scales[(begin + j) * x.blocks + i];
        scales[j] = Format::scale(code);
      }
      __m512 scale = _mm512_load_ps(scales);
      __mmask16 dropped = 0;
      if constexpr (fp4_tabled<Format>) {
        const __mmask16 nan = _mm512_cmp_ps_mask(scale, scale, _CMP_UNORD_Q);
        float* fault = faults + 16 * half;
        _mm512_storeu_ps(fault, _mm512_mask_mov_ps(_mm512_loadu_ps(fault), nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000))));
        dropped = (__mmask16)(nan | _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ));
        scale = _mm512_mask_mov_ps(scale, dropped, _mm512_set1_ps(1));
      }
      const __m512i nothing = _mm512_set1_epi8(12);
      for (int w = 0; w < Format::words; w++) {
        _mm512_storeu_si512(to, _mm512_mask_mov_epi32(fp4_low(words[w], 12), dropped, nothing));
        _mm512_storeu_si512(to + 128, _mm512_mask_mov_epi32(fp4_high(words[w], 12), dropped, nothing));
        to += 256;
      }
      if constexpr (fp4_tabled<Format>) {
        for (int x = 0; x < 8; x++) _mm512_storeu_ps(to + 128 * x, _mm512_mul_ps(scale, _mm512_set1_ps(1 + (float)x / 8)));
      } else {
        _mm512_storeu_ps(to, scale);
      }
    });
  }
}

// sums[R][fp4_columns] += the terms of `blocks` blocks, in order.
template <class Format, int R> inline void fp4_tile(int64_t blocks, const char* a, const char* b, float* sums) {
  constexpr int quads = 2 * Format::words;
  const __m512 magic = _mm512_castsi512_ps(_mm512_set1_epi32(fp4_magic));
  __m512 acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    acc[r][0] = _mm512_loadu_ps(sums + r * fp4_columns);
    acc[r][1] = _mm512_loadu_ps(sums + r * fp4_columns + 16);
  }
  for (int64_t i = 0; i < blocks; i++) {
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
    const char* scales = b + quads * 128;
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512 t0 = _mm512_sub_ps(_mm512_castsi512_ps(dot[r][0]), magic);
      const __m512 t1 = _mm512_sub_ps(_mm512_castsi512_ps(dot[r][1]), magic);
      if constexpr (fp4_tabled<Format>) {
        const __m512i exponent = _mm512_set1_epi32(starts[fp4_rows + r]);
        const char* table = scales + starts[2 * fp4_rows + r];
        const __m512i s0 = _mm512_add_epi32(exponent, _mm512_loadu_si512(table));
        const __m512i s1 = _mm512_add_epi32(exponent, _mm512_loadu_si512(table + 64));
        acc[r][0] = _mm512_fmadd_ps(_mm512_castsi512_ps(s0), t0, acc[r][0]);
        acc[r][1] = _mm512_fmadd_ps(_mm512_castsi512_ps(s1), t1, acc[r][1]);
      } else {
        const __m512 s = _mm512_castsi512_ps(_mm512_set1_epi32(starts[fp4_rows + r]));
        acc[r][0] = _mm512_fmadd_ps(s, _mm512_mul_ps(t0, _mm512_loadu_ps(scales)), acc[r][0]);
        acc[r][1] = _mm512_fmadd_ps(s, _mm512_mul_ps(t1, _mm512_loadu_ps(scales + 64)), acc[r][1]);
      }
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
