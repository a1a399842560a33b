// The tile of gemm_fp4.h in FP32 vectors of any processor: doubled elements are small integers, so FP32 sums of their products are exact.
#pragma once

constexpr int fp4_rows = 4, fp4_columns = 8;
// Whether panels of B are those of pack.ts.
constexpr bool fp4_panels_are_packed = false;

// Panel A, per block: elements[8 * words][rows], scales[rows]. Panel B, per block: elements[8 * words][columns], scales[columns].
template <class Format> constexpr int64_t fp4_a_bytes = (8 * Format::words + 1) * fp4_rows * 4;
template <class Format> constexpr int64_t fp4_b_bytes = (8 * Format::words + 1) * fp4_columns * 4;

template <class Format, int width>
inline void unpack_floats(const CodedOperand& x, int64_t first, int64_t rows, const ChunkedPanel<Format>& panel) {
  const int64_t row_bytes = x.blocks * Format::words * 4;
  for (int64_t i = 0; i < x.blocks; i++) {
    float* to = reinterpret_cast<float*>(panel.at(i));
    for (int64_t r = 0; r < width; r++) {
      for (int64_t l = 0; l < 4 * Format::words; l++) {
        const int byte = r < rows ? x.codes[(first + r) * row_bytes + i * Format::words * 4 + l] : 0;
        to[2 * l * width + r] = (float)e2m1_doubled(byte & 15);
        to[(2 * l + 1) * width + r] = (float)e2m1_doubled(byte >> 4);
      }
    }
    store_scales<Format, width>(x, first, rows, i, to + 8 * Format::words * width);
  }
}
constexpr int fp4_rows_together = fp4_rows;
template <class Format>
inline void unpack_a(const CodedOperand& x, int64_t first, int64_t rows, const ChunkedPanel<Format>& panel, int64_t /*next*/) {
  unpack_floats<Format, fp4_rows>(x, first, rows, panel);
}
template <class Format>
inline void unpack_b(const CodedOperand& x, int64_t first, int64_t columns, char* panel) {
  const ChunkedPanel<Format> whole{panel, fp4_blocks_at_once<Format> * fp4_b_bytes<Format>, fp4_b_bytes<Format>};
  unpack_floats<Format, fp4_columns>(x, first, columns, whole);
}

// sums[R][fp4_columns] = the terms of `blocks` blocks, in order, added to what was there unless they are the first.
template <class Format, int R>
inline void fp4_tile(int64_t blocks, const char* a, const char* b, float* sums, bool first, const char* /*ahead*/, int64_t /*step*/) {
  if (first) memset(sums, 0, sizeof(float) * R * fp4_columns);
  for (int64_t i = 0; i < blocks; i++) {
    const float* a_values = reinterpret_cast<const float*>(a);
    const float* b_values = reinterpret_cast<const float*>(b);
    vec dot[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = vec_set(0);
    for (int l = 0; l < 8 * Format::words; l++) {
      const vec b0 = vec_load(b_values), b1 = vec_load(b_values + vec_lanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const vec x = vec_set(a_values[r]);
        dot[r][0] = x * b0 + dot[r][0];
        dot[r][1] = x * b1 + dot[r][1];
      }
      a_values += fp4_rows;
      b_values += fp4_columns;
    }
    const vec b0 = vec_load(b_values), b1 = vec_load(b_values + vec_lanes);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const vec scale = vec_set(a_values[r]);
      float* to = sums + r * fp4_columns;
      vec_store(to, vec_load(to) + scale * (dot[r][0] * b0));
      vec_store(to + vec_lanes, vec_load(to + vec_lanes) + scale * (dot[r][1] * b1));
    }
    a += fp4_a_bytes<Format>;
    b += fp4_b_bytes<Format>;
  }
}
