// A product of small matrices inside one task, of which attention is made.
//
//   c[i, j] = alpha * sum over l of A(i, l) * B(l, j), or added to c          A(i, l) = a[i * a_row + l * a_column]
//   FP32 sums over l in order                                               B(l, j) = b[l * b_row + j * b_column]
//
// Strides are in elements, so that every transposition is a choice of strides; a and b may be float or bf16. Packing needs one of
// the two strides of an operand to be 1 to be fast. Single-threaded; uses scratch slots 6 and 7 of the calling thread.
#pragma once
#include "gemm_panel.h"

template <class A, class B>
inline void small_gemm(int64_t m, int64_t n, int64_t k, float alpha, const A* a, int64_t a_row, int64_t a_column, const B* b,
                       int64_t b_row, int64_t b_column, float* c, int64_t c_row, bool accumulate) {
  constexpr int64_t most_rows = 16 * tile_rows;
  const int64_t a_stride = panel_stride(tile_rows, k), panels = ceil_div(n, tile_columns);
  const int64_t b_stride = panel_stride(tile_columns, k);
  float* a_panels = static_cast<float*>(scratch(6, a_stride * 16 * 4));
  float* b_panels = static_cast<float*>(scratch(7, b_stride * panels * 4));
  using ReadA = typename ReadOf<A>::Read;
  using ReadB = typename ReadOf<B>::Read;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t first = p * tile_columns, columns = n - first < tile_columns ? n - first : tile_columns;
    pack_panel<ReadB, tile_columns>(b + first * b_column, b_column, b_row, columns, k, b_panels + p * b_stride);
  }
  for (int64_t top = 0; top < m; top += most_rows) {
    const int64_t bottom = top + most_rows < m ? top + most_rows : m;
    for (int64_t i = top; i < bottom; i += tile_rows) {
      const int64_t rows = bottom - i < tile_rows ? bottom - i : tile_rows;
      pack_panel<ReadA, tile_rows>(a + i * a_row, a_row, a_column, rows, k, a_panels + (i - top) / tile_rows * a_stride);
    }
    for (int64_t p = 0; p < panels; p++) {
      const int64_t first = p * tile_columns, columns = n - first < tile_columns ? n - first : tile_columns;
      const float* b_panel = b_panels + p * b_stride;
      for (int64_t i = top; i < bottom; i += tile_rows) {
        const int64_t rows = bottom - i < tile_rows ? bottom - i : tile_rows;
        const float* a_panel = a_panels + (i - top) / tile_rows * a_stride;
        float* to = c + i * c_row + first;
        if (columns == tile_columns) {
          tiles.of_rows[rows](k, alpha, a_panel, b_panel, to, c_row, accumulate, {b_panel, 0});
          continue;
        }
        alignas(64) float buffer[tile_rows * tile_columns];
        tiles.of_rows[rows](k, alpha, a_panel, b_panel, buffer, tile_columns, false, {b_panel, 0});
        for (int64_t r = 0; r < rows; r++)
          for (int64_t j = 0; j < columns; j++) {
            const float y = buffer[r * tile_columns + j];
            to[r * c_row + j] = accumulate ? to[r * c_row + j] + y : y;
          }
      }
    }
  }
}
