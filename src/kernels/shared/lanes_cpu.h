// The widest vector of the CPU's level as lanes (lanes.h), with loads, transposition and packing.
//
// GCC's and clang's vector types carry the arithmetic; intrinsics are used only where those compile to something slow.
#pragma once
#include "lanes.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#pragma GCC diagnostic ignored "-Wpsabi"

struct Lanes {
#if defined(__AVX512F__)
  static constexpr int width = 16;
#elif defined(__AVX2__)
  static constexpr int width = 8;
#else
  static constexpr int width = 4;
#endif
  typedef float Real __attribute__((vector_size(4 * width)));
  typedef uint32_t Word __attribute__((vector_size(4 * width)));
  typedef int32_t Signed __attribute__((vector_size(4 * width)));
  typedef uint64_t Wide __attribute__((vector_size(4 * width)));
  typedef uint16_t Half __attribute__((vector_size(2 * width)));
  typedef uint8_t Byte __attribute__((vector_size(width)));
  typedef uint8_t Pairs __attribute__((vector_size(width / 2)));

  static Real real(float x) { return x - Real{}; }
  static Word word(uint32_t x) { return x + Word{}; }
  static Word bits(Real x) { return (Word)x; }
  static Real of_bits(Word x) { return (Real)x; }
  static Real select(Signed mask, Real a, Real b) { return mask ? a : b; }
  static Word select(Signed mask, Word a, Word b) { return mask ? a : b; }
  static Word truncate(Real x) { return (Word)__builtin_convertvector(x, Signed); }
  static Real convert(Word x) { return __builtin_convertvector((Signed)x, Real); }
  static Signed above(Word a, Word b) { return (Signed)a > (Signed)b; }
  static Signed equal(Word a, Word b) { return (Signed)a == (Signed)b; }
  static Signed below(Real a, Real b) { return a < b; }
  // GCC makes a comparison and a blend of these where it could have one instruction.
#if defined(__AVX512F__)
  static Word smaller(Word a, Word b) { return (Word)_mm512_maskz_min_epi32(0xffff, (__m512i)a, (__m512i)b); }
  static Word larger(Word a, Word b) { return (Word)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
  static Word smaller(Word a, Word b) { return (Word)_mm256_min_epi32((__m256i)a, (__m256i)b); }
  static Word larger(Word a, Word b) { return (Word)_mm256_max_epi32((__m256i)a, (__m256i)b); }
#else
  static Word smaller(Word a, Word b) { return select(above(b, a), a, b); }
  static Word larger(Word a, Word b) { return select(above(a, b), a, b); }
#endif

  // x, or 0 where it is less.
#if defined(__AVX512F__)
  static Real positive(Real x) { return (Real)_mm512_maskz_max_ps(0xffff, _mm512_setzero_ps(), (__m512)x); }
#elif defined(__AVX2__)
  static Real positive(Real x) { return (Real)_mm256_max_ps(_mm256_setzero_ps(), (__m256)x); }
#else
  static Real positive(Real x) { return select(below(x, Real{}), Real{}, x); }
#endif

  static void multiply(Word a, uint32_t b, Word& high, Word& low) {
#if defined(__AVX512F__)
    const __m512i m = _mm512_set1_epi32((int)b);
    const __m512i even = _mm512_maskz_mul_epu32(0xff, (__m512i)a, m), odd = _mm512_maskz_mul_epu32(0xff, (__m512i)((Wide)a >> 32), m);
    high = (Word)_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_CDAB);
    low = (Word)_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
#elif defined(__AVX2__)
    const __m256i x = (__m256i)a, m = _mm256_set1_epi32((int)b);
    const __m256i even = _mm256_mul_epu32(x, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
    high = (Word)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = (Word)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#elif defined(__SSE2__)
    const __m128i x = (__m128i)a, m = _mm_set1_epi32((int)b), keep = _mm_set1_epi64x(0xffffffffll);
    const __m128i even = _mm_mul_epu32(x, m), odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), m);
    high = (Word)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(keep, odd));
    low = (Word)_mm_or_si128(_mm_and_si128(even, keep), _mm_slli_epi64(odd, 32));
#else
    for (int l = 0; l < width; l++) {
      const uint64_t product = (uint64_t)a[l] * b;
      high[l] = (uint32_t)(product >> 32);
      low[l] = (uint32_t)product;
    }
#endif
  }

  template <class T> static T load_as(const void* p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
  }
  static Real load(const float* p) { return load_as<Real>(p); }
  static Real load(const bf16* p) { return (Real)(__builtin_convertvector(load_as<Half>(p), Word) << 16); }
  static void store(void* p, Real x) { memcpy(p, &x, sizeof x); }
  static void store(void* p, Word x) { memcpy(p, &x, sizeof x); }
  static Word load_bytes(const uint8_t* p) { return __builtin_convertvector(load_as<Byte>(p), Word); }
  static void store_bytes(uint8_t* p, Word x) {
    const Byte bytes = __builtin_convertvector(x, Byte);
    memcpy(p, &bytes, sizeof bytes);
  }
  // Lanes 2j and 2j+1 hold 4-bit codes: byte j is the first in its low and the second in its high nibble.
  static void store_nibbles(uint8_t* p, Word x) {
    const Wide pair = (Wide)x;
    const Pairs bytes = __builtin_convertvector(pair | (pair >> 28), Pairs);
    memcpy(p, &bytes, sizeof bytes);
  }
  static void store_bf16(bf16* p, Real x) {
    const Word u = bits(x);
    const Word rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Half half = __builtin_convertvector(select(above(u & 0x7fffffffu, word(0x7f800000u)), (u >> 16) | 0x40u, rounded), Half);
    memcpy(p, &half, sizeof half);
  }
  static Real round_to_bf16(Real x) {
    const Word u = bits(x);
    const Word rounded = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
    return of_bits(select(above(u & 0x7fffffffu, word(0x7f800000u)), (u & 0xffff0000u) | 0x400000u, rounded));
  }

  // Whether any lane of x is above y.
  static bool some_above(Word x, uint32_t y) {
    const Signed mask = above(x, word(y));
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
    int32_t any = 0;
    for (int l = 0; l < width; l++) any |= mask[l];
    return any != 0;
#endif
  }

  static uint32_t largest(Word x) {
    uint32_t each[width], result = 0;
    store(each, x);
    for (int l = 0; l < width; l++) result = each[l] > result ? each[l] : result;
    return result;
  }

  // What takes lane l of the result from lane pick(l) of a followed by b.
  template <class T, class Pick> static T shuffle(T a, T b, const Pick& pick) {
#if defined(__clang__)
    T result;
    for (int l = 0; l < width; l++) result[l] = pick(l) < width ? a[pick(l)] : b[pick(l) - width];
    return result;
#else
    Signed index;
    for (int l = 0; l < width; l++) index[l] = pick(l);
    return __builtin_shuffle(a, b, index);
#endif
  }
  // Within each four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3. Shuffles across fours are far slower.
#if defined(__AVX512F__)
  template <class T> static T zip_low(T a, T b) { return (T)_mm512_maskz_unpacklo_ps(0xffff, (__m512)a, (__m512)b); }
  template <class T> static T zip_high(T a, T b) { return (T)_mm512_maskz_unpackhi_ps(0xffff, (__m512)a, (__m512)b); }
  template <class T> static T join_low(T a, T b) { return (T)_mm512_maskz_unpacklo_pd(0xff, (__m512d)a, (__m512d)b); }
  template <class T> static T join_high(T a, T b) { return (T)_mm512_maskz_unpackhi_pd(0xff, (__m512d)a, (__m512d)b); }
#else
  template <class T> static T zip_low(T a, T b) {
    return shuffle(a, b, [](int l) { return (l & ~3) + (l >> 1 & 1) + (l & 1) * width; });
  }
  template <class T> static T zip_high(T a, T b) {
    return shuffle(a, b, [](int l) { return (l & ~3) + 2 + (l >> 1 & 1) + (l & 1) * width; });
  }
  template <class T> static T join_low(T a, T b) {
    return shuffle(a, b, [](int l) { return (l & ~3) + (l & 1) + (l >> 1 & 1) * width; });
  }
  template <class T> static T join_high(T a, T b) {
    return shuffle(a, b, [](int l) { return (l & ~3) + 2 + (l & 1) + (l >> 1 & 1) * width; });
  }
#endif
  // The fours of even (odd) number of a, then those of b.
  template <int Odd, class T> static T fours(T a, T b) {
#if defined(__AVX512F__)
    return (T)_mm512_maskz_shuffle_f32x4(0xffff, (__m512)a, (__m512)b, Odd ? 0xdd : 0x88);
#else
    return shuffle(a, b, [](int l) { return 8 * (l / 4 % (width / 8)) + 4 * Odd + l % 4 + (l >= width / 2 ? width : 0); });
#endif
  }

  // Transposes `width` vectors in place: 4x4 within the fours, then the fours.
  template <class T> static void transpose(T* v) {
    for (int i = 0; i < width; i += 4) {
      const T a = zip_low(v[i], v[i + 1]), b = zip_high(v[i], v[i + 1]);
      const T c = zip_low(v[i + 2], v[i + 3]), d = zip_high(v[i + 2], v[i + 3]);
      v[i] = join_low(a, c);
      v[i + 1] = join_high(a, c);
      v[i + 2] = join_low(b, d);
      v[i + 3] = join_high(b, d);
    }
    if constexpr (width == 8) {
      for (int j = 0; j < 4; j++) {
        const T a = v[j], b = v[4 + j];
        v[j] = fours<0>(a, b);
        v[4 + j] = fours<1>(a, b);
      }
    } else if constexpr (width == 16) {
      for (int j = 0; j < 4; j++) {
        const T a = fours<0>(v[j], v[4 + j]), b = fours<1>(v[j], v[4 + j]);
        const T c = fours<0>(v[8 + j], v[12 + j]), d = fours<1>(v[8 + j], v[12 + j]);
        v[j] = fours<0>(a, c);
        v[4 + j] = fours<0>(b, d);
        v[8 + j] = fours<1>(a, c);
        v[12 + j] = fours<1>(b, d);
      }
    }
  }
};
