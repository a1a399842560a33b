// Operands with E4M3 elements, decoded into FP32 panels with their scales multiplied in: each element rounds once, as in an FP32 sum.
#pragma once
#include "gemm_float.h"

struct ReadE4m3 {
  using Element = uint8_t;
  static float one(const uint8_t* p) { return decode<One, E4M3>(*p); }
  static vec many(const uint8_t* p) {
    typedef uint8_t byte_vec __attribute__((vector_size(vec_lanes)));
    byte_vec codes;
    memcpy(&codes, p, sizeof codes);
    return e4m3_values(__builtin_convertvector(codes, word_vec));
  }
};

// Scale(row, block) is the decode scale of a block of `block` elements of a row.
template <class Scale> struct Fp8Operand {
  const uint8_t* codes;
  int64_t length, block;
  Scale scale;

  template <int width> void pack(int64_t first, int64_t rows, int64_t l, int64_t k, float* panels, int64_t stride) const {
    pack_panels<ReadE4m3, width>(codes + first * length + l, length, 1, rows, k, panels, stride);
    for (int64_t i = 0; i < rows; i += width)
      for (int64_t begin = 0; begin < k; begin += block) {
        const int64_t end = begin + block < k ? begin + block : k, count = rows - i < width ? rows - i : width;
        float* to = panels + i / width * stride;
        float scales[width] = {};
        for (int64_t r = 0; r < count; r++) scales[r] = scale(first + i + r, (l + begin) / block);
        for (int64_t at = begin; at < end; at++)
          for (int64_t r = 0; r < width; r++) to[at * width + r] *= scales[r];
      }
  }
};

struct PlainFp8Operand {
  const uint8_t* codes;
  int64_t length;

  template <int width> void pack(int64_t first, int64_t rows, int64_t l, int64_t k, float* panels, int64_t stride) const {
    pack_panels<ReadE4m3, width>(codes + first * length + l, length, 1, rows, k, panels, stride);
  }
};
