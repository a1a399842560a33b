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
  const auto same = [](float x) { return x; };
  if (is_bf16) map_elements(count, static_cast<float*>(to), same, static_cast<const bf16*>(from));
  else map_elements(count, static_cast<bf16*>(to), same, static_cast<const float*>(from));
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

// 16 E2M1 codes times one scale as BF16. Values of the eight magnitudes are a table of their lower and one of their upper bytes, from which a byte
// permutation picks four at a time; signs are put on afterwards.
struct ProductTable {
  uint32_t low[2], high[2];
  __device__ explicit ProductTable(float scale) {
    const uint32_t p0 = pack_bf16(0.0f * scale, 0.5f * scale), p1 = pack_bf16(scale, 1.5f * scale);
    const uint32_t p2 = pack_bf16(2.0f * scale, 3.0f * scale), p3 = pack_bf16(4.0f * scale, 6.0f * scale);
    low[0] = __byte_perm(p0, p1, 0x6420), low[1] = __byte_perm(p2, p3, 0x6420);
    high[0] = __byte_perm(p0, p1, 0x7531), high[1] = __byte_perm(p2, p3, 0x7531);
  }
  // Of the four codes in the lower half of a word.
  __device__ uint2 four(uint32_t codes) const {
    const uint32_t lower = __byte_perm(low[0], low[1], codes & 0x7777u), upper = __byte_perm(high[0], high[1], codes & 0x7777u);
    return make_uint2(__byte_perm(lower, upper, 0x5140) ^ ((codes & 0x8u) << 12 | (codes & 0x80u) << 24),
                      __byte_perm(lower, upper, 0x7362) ^ ((codes & 0x800u) << 4 | (codes & 0x8000u) << 16));
  }
};

// Codes and one scale for each 16 of them, all of whole rows.
template <class Scale> __device__ void expand_sixteens(const uint8_t* codes, bf16* to, int64_t groups, const Scale& scale) {
  GRID_LOOP(u, groups) {
    const uint2 words = reinterpret_cast<const uint2*>(codes)[u];
    const ProductTable table(scale(u));
    const uint2 a = table.four(words.x), b = table.four(words.x >> 16), c = table.four(words.y), d = table.four(words.y >> 16);
    uint4* const out = reinterpret_cast<uint4*>(to + 16 * u);
    out[0] = make_uint4(a.x, a.y, b.x, b.y);
    out[1] = make_uint4(c.x, c.y, d.x, d.y);
  }
}
