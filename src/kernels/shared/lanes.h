// One lane or many: the arithmetic of number formats (quantize.h, philox.h) is written once over a type L of lanes.
//
// `One` is a single FP32, for CUDA threads and for edges. `Lanes` (lanes_cpu.h) is a vector register of the CPU's level. Comparisons give
// a mask that only `select` reads; words are unsigned 32-bit, and all comparisons of words are of values below 2^31.
#pragma once
#include "number.h"

struct One {
  typedef float Real;
  typedef uint32_t Word;
  static constexpr int width = 1;
  SHARED static Real real(float x) { return x; }
  SHARED static Word word(uint32_t x) { return x; }
  SHARED static Word bits(Real x) { return bits_of(x); }
  SHARED static Real of_bits(Word x) { return float_of(x); }
  template <class T> SHARED static T select(bool mask, T a, T b) { return mask ? a : b; }
  // Towards zero; the value is in [0, 2^31).
  SHARED static Word truncate(Real x) { return (Word)(int32_t)x; }
  SHARED static Real convert(Word x) { return (Real)(int32_t)x; }
  SHARED static bool above(Word a, Word b) { return a > b; }
  SHARED static bool equal(Word a, Word b) { return a == b; }
  SHARED static bool below(Real a, Real b) { return a < b; }
  SHARED static Word smaller(Word a, Word b) { return a < b ? a : b; }
  SHARED static Word larger(Word a, Word b) { return a > b ? a : b; }
  // High and low words of the 64-bit product.
  SHARED static void multiply(Word a, uint32_t b, Word& high, Word& low) {
    const uint64_t product = (uint64_t)a * b;
    high = (uint32_t)(product >> 32);
    low = (uint32_t)product;
  }
};
