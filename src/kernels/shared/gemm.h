// What the products of this library share: reading operands, and the last step, which writes a tile of C.
#pragma once
#include "cpu.h"
#include "quantize.h"

// C as the contracts give it, f32 or bf16.
struct Output {
  void* data;
  bool is_bf16;
  int64_t stride;
  bool accumulate;

  // c[row, column] (+)= y, the sum in FP32 before it is rounded to the dtype of C.
  void put(int64_t row, int64_t column, float y) const {
    const int64_t at = row * stride + column;
    if (is_bf16) {
      bf16* c = static_cast<bf16*>(data) + at;
      store(c, accumulate ? load(c) + y : y);
    } else {
      float* c = static_cast<float*>(data) + at;
      *c = accumulate ? *c + y : y;
    }
  }
};

// Asks for the lines of a tile of C while the tile is being computed: writing them would otherwise wait for memory. For reading, because
// asking for ownership was slower where it was measured (Zen 5).
inline void prefetch_tile(const float* c, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < columns; j += 16) __builtin_prefetch(c + r * stride + j);
}

// Twice the value of an E2M1 code: an integer from -12 to 12.
inline int e2m1_doubled(int code) {
  constexpr int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return table[code & 15];
}
