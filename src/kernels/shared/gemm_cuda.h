// The parts of a product on a GPU that cuBLASLt leaves: operands in its dtypes, factors of whole tensors, and c's last rounding. The
// workspace is that of src/kernels/gemm/gemm.cuda.ts.
#pragma once
#include "cuda.h"
#include "quantize.h"

struct ProductSpace {
  float* factor;
  char *a, *b;
  float* c;
  __device__ ProductSpace(void* workspace, int64_t m, int64_t n, int64_t k) {
    char* const start = static_cast<char*>(workspace);
    factor = static_cast<float*>(workspace);
    a = start + 256;
    b = a + aligned(m * k * 4);
    c = reinterpret_cast<float*>(b + aligned(n * k * 4));
  }
  __device__ static int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }
};

// To the other of the two dtypes.
__device__ inline void cast_operand(const void* from, bool is_bf16, void* to, int64_t count) {
  if (is_bf16) GRID_LOOP(i, count) static_cast<float*>(to)[i] = load(static_cast<const bf16*>(from) + i);
  else GRID_LOOP(i, count) store(static_cast<bf16*>(to) + i, static_cast<const float*>(from)[i]);
}

// c = scale(i, j) * sum, plus c.
template <class Scale>
__device__ void finish_product(void* c, bool is_bf16, bool accumulate, const float* sums, int64_t m, int64_t n, const Scale& scale) {
  GRID_LOOP(at, m * n) {
    float y = scale(at / n, at % n) * sums[at];
    if (accumulate) y = y + (is_bf16 ? load(static_cast<const bf16*>(c) + at) : static_cast<const float*>(c)[at]);
    if (is_bf16) store(static_cast<bf16*>(c) + at, y);
    else static_cast<float*>(c)[at] = y;
  }
}

__device__ inline float power_of_two(uint32_t code) {
  if (code == 255) return float_of(0x7fc00000u);
  return float_of(code == 0 ? 0x400000u : code << 23);
}

// Element `at` of packed codes.
template <class E> __device__ float code_value(const uint8_t* codes, int64_t at) {
  if (E::bits == 8) return decode<One, E>(codes[at]);
  return decode<One, E>(codes[at >> 1] >> (4 * (at & 1)) & 15u);
}

// Values times scale(row, column), into BF16 where that is exact and else into FP32. A thread has 16 elements of one row.
template <class E, class Out, class Scale>
__device__ void expand_codes(const uint8_t* codes, void* to, int64_t rows, int64_t k, const Scale& scale) {
  Out* const out = static_cast<Out*>(to);
  const int64_t groups = (k + 15) / 16;
  GRID_LOOP(u, rows * groups) {
    const int64_t row = u / groups, begin = u % groups * 16;
    const float s = scale(row, begin);
    for (int64_t c = begin; c < begin + 16 && c < k; c++) store(out + row * k + c, code_value<E>(codes, row * k + c) * s);
  }
}
