// The product of two operands that pack into FP32 panels, c (+)= alpha * a * b.
//
// B is packed once. A task packs some rows of A into its own second cache, and takes one panel of B after another past them.
// An element of C is the sum of its blocks of the contraction in order, each summed in order, wherever its tile begins.
#pragma once
#include "gemm.h"
#include "gemm_panel.h"

constexpr int64_t contraction_block = 1024;
// Panels of B for which a task goes through a block of the contraction before it turns to the next block.
constexpr int64_t panels_at_once = 16;
// What is packed of B at a time.
constexpr int64_t packed_floats = int64_t{1} << 24;

// Panels of rows begin .. end-1 of an operand.
template <int width> struct Panels {
  int64_t begin, end, stride;
  float* data;

  Panels(int slot, int64_t begin, int64_t end, int64_t k) : begin(begin), end(end), stride(panel_stride(width, k)) {
    data = static_cast<float*>(scratch(slot, stride * count() * 4));
  }
  int64_t count() const { return ceil_div(end - begin, width); }
  int64_t first(int64_t panel) const { return begin + panel * width; }
  int64_t rows(int64_t panel) const { return end - first(panel) < width ? end - first(panel) : width; }
  template <class Operand> void pack(const Operand& x, int64_t panel, int64_t k) const {
    x.template pack<width>(first(panel), rows(panel), k, data + panel * stride);
  }
};

// All rows of `a` against panels b_begin .. b_end-1.
inline void multiply_block(const Output& c, const Panels<tile_rows>& a, const Panels<tile_columns>& b, int64_t b_begin,
                           int64_t b_end, int64_t k, float alpha) {
  const int64_t a_count = a.count();
  const int64_t columns = (b_end - b_begin) * tile_columns;
  float* sums = nullptr;
  if (c.is_bf16) sums = static_cast<float*>(scratch(2, a_count * tile_rows * columns * 4));
  for (int64_t l = 0; l == 0 || l < k; l += contraction_block) {
    const int64_t length = k - l < contraction_block ? k - l : contraction_block;
    for (int64_t q = b_begin; q < b_end; q++) {
      const float* b_panel = b.data + q * b.stride + l * tile_columns;
      for (int64_t p = 0; p < a_count; p++) {
        const float* a_panel = a.data + p * a.stride + l * tile_rows;
        const int64_t rows = a.rows(p), width = b.rows(q);
        if (c.is_bf16) {
          float* to = sums + p * tile_rows * columns + (q - b_begin) * tile_columns;
          tiles.of_rows[rows](length, alpha, a_panel, b_panel, to, columns, l > 0);
        } else if (width == tile_columns) {
          float* to = static_cast<float*>(c.data) + a.first(p) * c.stride + b.first(q);
          prefetch_tile(to, c.stride, rows, tile_columns);
          tiles.of_rows[rows](length, alpha, a_panel, b_panel, to, c.stride, l > 0 || c.accumulate);
        } else {
          alignas(64) float edge[tile_rows * tile_columns];
          tiles.of_rows[rows](length, alpha, a_panel, b_panel, edge, tile_columns, false);
          for (int64_t r = 0; r < rows; r++) {
            float* to = static_cast<float*>(c.data) + (a.first(p) + r) * c.stride + b.first(q);
            for (int64_t j = 0; j < width; j++) {
              const float y = edge[r * tile_columns + j];
              to[j] = l > 0 || c.accumulate ? to[j] + y : y;
            }
          }
        }
      }
    }
  }
  if (!c.is_bf16) return;
  const int64_t first = b.first(b_begin), last = b.first(b_end) < b.end ? b.first(b_end) : b.end;
  for (int64_t p = 0; p < a_count; p++)
    for (int64_t r = 0; r < a.rows(p); r++)
      for (int64_t j = first; j < last; j++)
        c.put(a.first(p) + r, j, sums[(p * tile_rows + r) * columns + j - first]);
}

// Rows in a task's block: small enough for the second cache, many enough to read B seldom.
inline int64_t rows_per_task(int64_t m) {
  const int64_t panels = ceil_div(m, tile_rows), wanted = ceil_div(panels, 4 * thread_count());
  return tile_rows * (wanted < 2 ? 2 : (wanted > 8 ? 8 : wanted));
}

// c (+)= alpha * a * b. An operand packs rows first .. first+rows-1 into a panel: pack<width>(first, rows, k, panel).
template <class A, class B>
static void multiply_floats(const Output& c, const A& a, const B& b, int64_t m, int64_t n, int64_t k, float alpha) {
  const int64_t most = packed_floats / (k + 1) / tile_columns * tile_columns, step = most < tile_columns ? tile_columns : most;
  const int64_t height = rows_per_task(m), tall = ceil_div(m, height);
  for (int64_t left = 0; left < n; left += step) {
    const Panels<tile_columns> columns(0, left, left + step < n ? left + step : n, k);
    const int64_t panels = columns.count();
    parallel_for(panels, [&](int64_t panel) { columns.pack(b, panel, k); });
    const int64_t wanted = ceil_div(4 * thread_count(), tall), across = wanted < panels ? wanted : panels;
    parallel_for(tall * across, [&](int64_t task) {
      const int64_t top = task / across * height, part = task % across;
      const Panels<tile_rows> rows(1, top, top + height < m ? top + height : m, k);
      for (int64_t panel = 0; panel < rows.count(); panel++) rows.pack(a, panel, k);
      const int64_t last = panels * (part + 1) / across;
      for (int64_t panel = panels * part / across; panel < last; panel += panels_at_once)
        multiply_block(c, rows, columns, panel, panel + panels_at_once < last ? panel + panels_at_once : last, k,
                       alpha);
    });
  }
}
