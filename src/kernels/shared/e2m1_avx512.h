// Words of eight E2M1 codes for quantize_cpu.h, with AVX-512.
//
// Codes count steps of 1/2 up to 2, of 1 up to 4, of 2 beyond: the code of a magnitude a, not yet rounded, is g(a) = min(2a, a + 2, a/2 + 4).
// Rounding never turns an order around, so each of the three may be rounded before the smallest is taken, by one addition each:
//
//   nearest      2^23 + g has no bits for a fraction: the sum is rounded to the nearest integer, ties to even, as codes are
//   stochastic   2^7 + g has 16 bits for it; truncated, plus 8 random bits at the upper 8 of them, carries where a code goes up
//
// All products are exact, so a fused multiply-add rounds once, as an addition would.
#pragma once
#include "panel_cpu.h"
#include "philox.h"

#if defined(__AVX512VNNI__)
#define FAST_E2M1 1

struct FastE2M1 {
  // 2^23 + code of |x| * multiplier.
  static Word nearest(Real x, Real multiplier) {
    const __m512 a = (__m512)(Lanes::of_bits(Lanes::bits(x) & 0x7fffffffu) * multiplier);
    const Word low = (Word)_mm512_fmadd_ps(a, _mm512_set1_ps(2), _mm512_set1_ps(0x1p23f));
    const Word middle = (Word)_mm512_add_ps(a, _mm512_set1_ps(0x1p23f + 2));
    const Word high = (Word)_mm512_fmadd_ps(a, _mm512_set1_ps(0.5f), _mm512_set1_ps(0x1p23f + 4));
    return Lanes::smaller(Lanes::smaller(low, middle), Lanes::smaller(high, Lanes::bits(Lanes::real(0x1p23f + 7))));
  }

  // 2^7 + code and what is left of a step, in units of 2^-16.
  static Word stochastic(Real x, Real multiplier, Word random, int byte) {
    constexpr int down = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    const __m512 a = (__m512)(Lanes::of_bits(Lanes::bits(x) & 0x7fffffffu) * multiplier);
    const Word low = (Word)_mm512_fmadd_round_ps(a, _mm512_set1_ps(2), _mm512_set1_ps(0x1p7f), down);
    const Word middle = (Word)_mm512_add_round_ps(a, _mm512_set1_ps(0x1p7f + 2), down);
    const Word high = (Word)_mm512_fmadd_round_ps(a, _mm512_set1_ps(0.5f), _mm512_set1_ps(0x1p7f + 4), down);
    const Word steps = Lanes::smaller(Lanes::smaller(low, middle), Lanes::smaller(high, Lanes::bits(Lanes::real(0x1p7f + 7))));
    // The random byte as bits 8 to 15.
    constexpr uint32_t none = 0x80800080u;
    const __m512i pick = _mm512_add_epi32(_mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0) << 8,
                                          _mm512_set1_epi32((int)(none | (uint32_t)byte << 8)));
    return steps + (Word)_mm512_shuffle_epi8((__m512i)random, pick);
  }

  // x * m of one half of each word, added to sum.
  static __m512i dot(__m512i sum, Word x, int multiplier) { return _mm512_dpwssd_epi32(sum, (__m512i)x, _mm512_set1_epi32(multiplier)); }

  // Codes of eight vectors, the first in the lowest bits. None of them is NaN; a multiplier is above 0.
  template <bool Stochastic> static Word word(const Real* x, Real multiplier, const Word* random, int first) {
    // What 2^7 leaves in the upper halves that are added up.
    constexpr int excess = Stochastic ? 0x4300 * 0x1111 : 0, half = Stochastic ? 16 : 0;
    __m512i sums[2] = {_mm512_set1_epi32(-excess), _mm512_set1_epi32(-excess)};
    Word signs = Lanes::word(0);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      Word code;
      if constexpr (Stochastic) code = stochastic(x[i], multiplier, random[(first + i) >> 2], (first + i) & 3);
      else code = nearest(x[i], multiplier);
      sums[i >> 2] = dot(sums[i >> 2], code, (1 << 4 * (i & 3)) << half);
      signs = signs | ((Lanes::bits(x[i]) >> (28 - 4 * i)) & (8u << 4 * i));
    }
    return (Word)sums[0] | ((Word)sums[1] << 16) | signs;
  }
};
#else
#define FAST_E2M1 0
#endif
