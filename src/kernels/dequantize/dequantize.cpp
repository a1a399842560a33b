// dequantize_*: contracts in dequantize.ts. The scale of a block is found once, its elements through a table of all codes.
#include "cpu.h"
#include "quantize.h"

// Values of every code of an element.
template <class E> struct Table {
  float value[1 << E::bits];
  Table() {
    for (uint32_t code = 0; code < 1u << E::bits; code++) value[code] = decode<One, E>(code);
  }
};

template <class E, class Out>
static void fill_block(Out* y, const uint8_t* codes, int64_t count, float scale, const Table<E>& table) {
  if (E::bits == 8) {
    for (int64_t i = 0; i < count; i++) store(y + i, table.value[codes[i]] * scale);
    return;
  }
  for (int64_t i = 0; i < count; i += 2) {
    const uint8_t pair = codes[i / 2];
    store(y + i, table.value[pair & 15] * scale);
    store(y + i + 1, table.value[pair >> 4] * scale);
  }
}

// scale(r, block) is the whole scale of a block.
template <class E, class A, class Scale> static void dequantize(const A& a, int64_t block, const Scale& scale) {
  static const Table<E> table;
  parallel_rows(a.rows, a.cols >= 32768 ? 1 : 32768 / a.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t c = 0; c < a.cols; c += block) {
        const int64_t count = a.cols - c < block ? a.cols - c : block, at = r * a.cols + c;
        const uint8_t* codes = a.codes + at * E::bits / 8;
        const float s = scale(r, c / block);
        if (a.y_is_bf16) fill_block<E>(static_cast<bf16*>(a.y) + at, codes, count, s, table);
        else fill_block<E>(static_cast<float*>(a.y) + at, codes, count, s, table);
      }
  });
}

static void run_dequantize_nvfp4(const dequantize_nvfp4_args& a) {
  static const Table<E4M3> scales;
  const float inverse = 1.0f / a.bound;
  const int64_t across = a.cols / 16;
  dequantize<E2M1>(a, 16, [&](int64_t r, int64_t block) {
    const float scale = scales.value[a.scales[r * across + block]];
    return a.outer == 0 ? scale : scale * a.amax[a.outer == 2 ? r : 0] * inverse;
  });
}
EXPORT(dequantize_nvfp4)

static void run_dequantize_mxfp4(const dequantize_mxfp4_args& a) {
  dequantize<E2M1>(a, 32, [&](int64_t r, int64_t block) { return ue8m0_value(a.scales[r * (a.cols / 32) + block]); });
}
EXPORT(dequantize_mxfp4)

static void run_dequantize_mxfp8(const dequantize_mxfp8_args& a) {
  dequantize<E4M3>(a, 32, [&](int64_t r, int64_t block) { return ue8m0_value(a.scales[r * (a.cols / 32) + block]); });
}
EXPORT(dequantize_mxfp8)

static void run_dequantize_fp8(const dequantize_fp8_args& a) {
  const bool block_by_block = a.scale_width == a.rows && a.scale_lines == (a.cols + 127) / 128;
  dequantize<E4M3>(a, 128, [&](int64_t r, int64_t block) { return a.scales[block_by_block ? block * a.rows + r : r / 128 * a.scale_width + block]; });
}
EXPORT(dequantize_fp8)

static void run_dequantize_fp8_tensor(const dequantize_fp8_tensor_args& a) {
  dequantize<E4M3>(a, a.cols, [&](int64_t, int64_t) { return a.scales[0]; });
}
EXPORT(dequantize_fp8_tensor)
