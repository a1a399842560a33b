// The product of two operands that pack into FP32 panels, c (+)= alpha * a * b.
//
// B is packed once. A task packs rows of A, one block of the contraction after another, into its second cache, and takes panel after panel of B past
// them. Where the rows of A are so few that one task can hold them all, A is packed once, and each task packs the panels of B that it reads.
// An element of C is the sum of its blocks of the contraction in order, each summed in order, wherever its tile begins.
#pragma once
#include "gemm.h"
#include "gemm_panel.h"

constexpr int64_t contraction_block = 1024;
// What is packed of B at a time, and what a task packs of A: about half of a second cache of 1 MB.
constexpr int64_t packed_floats = int64_t{1} << 24, block_floats = 130 * 1024;
// Panels of B in a piece of packing, and at least in a task where A is packed more than once for it.
constexpr int64_t panels_together = 8;
// Panels of B at most in a task whose sums are kept beside C.
constexpr int64_t panels_beside = 16;

// Columns first .. end-1 of B in panels of tile_columns: panel after panel, each over the whole contraction.
struct Columns {
  int64_t first, end, k;
  float* data;
  int64_t count() const { return ceil_div(end - first, tile_columns); }
  int64_t column(int64_t panel) const { return first + panel * tile_columns; }
  int64_t width(int64_t panel) const { return end - column(panel) < tile_columns ? end - column(panel) : tile_columns; }
  float* at(int64_t panel, int64_t l) const { return data + (panel * k + l) * tile_columns; }
};

template <class B> static void pack_columns(const Columns& columns, const B& b) {
  const int64_t across = ceil_div(columns.count(), panels_together), deep = ceil_div(columns.k, contraction_block);
  parallel_for(across * deep, [&](int64_t task) {
    const int64_t first = columns.first + task % across * panels_together * tile_columns, l = task / across * contraction_block;
    const int64_t last = first + panels_together * tile_columns;
    b.template pack<tile_columns>(first, (last < columns.end ? last : columns.end) - first, l,
                                  columns.k - l < contraction_block ? columns.k - l : contraction_block,
                                  columns.at(task % across * panels_together, l), columns.k * tile_columns);
  });
}

// Rows top .. bottom-1 of C against panels left .. right-1 of B.
struct FloatTask {
  const Output& c;
  const Columns& b;
  int64_t top, bottom, left, right;
  float alpha;

  template <class A> void run(const A& a) const {
    const int64_t most = b.k < contraction_block ? b.k : contraction_block, a_stride = panel_stride(tile_rows, most);
    const int64_t count = ceil_div(bottom - top, tile_rows);
    float* a_panels = static_cast<float*>(scratch(1, count * a_stride * 4));
    float* sums = c.is_bf16 ? static_cast<float*>(scratch(2, count * tile_rows * columns() * 4)) : nullptr;
    for (int64_t l = 0; l == 0 || l < b.k; l += contraction_block) {
      const int64_t length = b.k - l < contraction_block ? b.k - l : contraction_block;
      a.template pack<tile_rows>(top, bottom - top, l, length, a_panels, a_stride);
      const int64_t step = tile_columns / count;
      for (int64_t q = left; q < right; q++)
        for (int64_t p = 0; p < count; p++)
          multiply(a_panels + p * a_stride, p, b.at(q, l), q, l > 0, length, sums, {b.at(q + 1, l) + p * step * length, step});
    }
    if (c.is_bf16) round(sums);
  }

  int64_t columns() const { return (right - left) * tile_columns; }

  // The tile of row panel p and panel q of B: a block of the contraction, which adds to the blocks before it if it is a `later` one.
  void multiply(const float* a_panel, int64_t p, const float* b_panel, int64_t q, bool later, int64_t length, float* sums,
                Ahead ahead) const {
    const int64_t row = top + p * tile_rows, rows = bottom - row < tile_rows ? bottom - row : tile_rows, width = b.width(q);
    const Tile tile = tiles.of_rows[rows];
    if (c.is_bf16) {
      float* to = sums + p * tile_rows * columns() + (q - left) * tile_columns;
      tile(length, alpha, a_panel, b_panel, to, columns(), later, ahead);
      return;
    }
    float* to = static_cast<float*>(c.data) + row * c.stride + b.column(q);
    const bool add = later || c.accumulate;
    if (width == tile_columns) {
      tile(length, alpha, a_panel, b_panel, to, c.stride, add, ahead);
      return;
    }
    alignas(64) float edge[tile_rows * tile_columns];
    tile(length, alpha, a_panel, b_panel, edge, tile_columns, false, ahead);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < width; j++) {
        const float y = edge[r * tile_columns + j];
        to[r * c.stride + j] = add ? to[r * c.stride + j] + y : y;
      }
  }

  void round(const float* sums) const {
    const int64_t first = b.column(left), last = b.column(right) < b.end ? b.column(right) : b.end;
    for (int64_t i = top; i < bottom; i++)
      for (int64_t j = first; j < last; j++) c.put(i, j, sums[(i - top) * columns() + j - first]);
  }
};

// Row panels of A that a task can hold.
inline int64_t most_row_panels(int64_t k) {
  const int64_t most = block_floats / (tile_rows * (k < 1 ? 1 : (k < contraction_block ? k : contraction_block)));
  return most < 1 ? 1 : most;
}

// c (+)= alpha * a * b for the columns of b, which are packed.
template <class A> static void multiply_columns(const Output& c, const A& a, const Columns& b, int64_t m, float alpha) {
  const int64_t threads = thread_count(), row_panels = ceil_div(m, tile_rows), panels = b.count();
  const auto at_most = [](int64_t x, int64_t limit) { return x < limit ? x : limit; };
  int64_t tall = ceil_div(row_panels, most_row_panels(b.k)), across = c.is_bf16 ? ceil_div(panels, panels_beside) : 1;
  // A few tasks for each thread: first by columns, because a task reads all of its columns again for every block of rows.
  if (threads > 1 && tall * across < 4 * threads) {
    const int64_t wide = at_most(ceil_div(4 * threads, tall), panels / panels_together);
    if (wide > across) across = wide;
    const int64_t high = at_most(ceil_div(4 * threads, across), ceil_div(row_panels, 2));
    if (high > tall) tall = high;
  }
  if (tall * across % threads != 0) tall = at_most(ceil_div(tall, threads) * threads, row_panels);
  parallel_for(tall * across, [&](int64_t task) {
    const int64_t i = task / across, j = task % across;
    const int64_t top = row_panels * i / tall * tile_rows, bottom = row_panels * (i + 1) / tall * tile_rows;
    const FloatTask part{c, b, top, bottom < m ? bottom : m, panels * j / across, panels * (j + 1) / across, alpha};
    part.run(a);
  });
}

// c (+)= alpha * a * b for so few rows of a that every task reads all of them.
template <class A, class B>
static void multiply_few_rows(const Output& c, const A& a, const B& b, int64_t m, int64_t n, int64_t k, float alpha) {
  const int64_t most = k < contraction_block ? k : contraction_block, a_stride = panel_stride(tile_rows, most);
  const int64_t count = ceil_div(m, tile_rows), panels = ceil_div(n, tile_columns), wanted = 8 * thread_count();
  float* a_panels = static_cast<float*>(scratch(0, ceil_div(k, contraction_block) * count * a_stride * 4));
  const auto block = [&](int64_t l) { return a_panels + l / contraction_block * count * a_stride; };
  const auto length = [&](int64_t l) { return k - l < contraction_block ? k - l : contraction_block; };
  for (int64_t l = 0; l < k; l += contraction_block) a.template pack<tile_rows>(0, m, l, length(l), block(l), a_stride);
  const int64_t across = wanted < panels ? wanted : panels;
  parallel_for(across, [&](int64_t task) {
    float* b_panel = static_cast<float*>(scratch(1, most * tile_columns * 4));
    float* sums = c.is_bf16 ? static_cast<float*>(scratch(2, count * tile_rows * tile_columns * 4)) : nullptr;
    for (int64_t q = panels * task / across; q < panels * (task + 1) / across; q++) {
      const int64_t first = q * tile_columns, end = first + tile_columns < n ? first + tile_columns : n;
      const Columns column{first, end, k, b_panel};
      const FloatTask part{c, column, 0, m, 0, 1, alpha};
      for (int64_t l = 0; l == 0 || l < k; l += contraction_block) {
        b.template pack<tile_columns>(first, end - first, l, length(l), b_panel, 0);
        for (int64_t p = 0; p < count; p++)
          part.multiply(block(l) + p * a_stride, p, b_panel, 0, l > 0, length(l), sums, {b_panel, 0});
      }
      if (c.is_bf16) part.round(sums);
    }
  });
}

// c (+)= alpha * a * b. An operand packs `rows` rows from `first` on and k columns from l on into panels that are `stride` floats apart:
// pack<width>(first, rows, l, k, panels, stride).
template <class A, class B>
static void multiply_floats(const Output& c, const A& a, const B& b, int64_t m, int64_t n, int64_t k, float alpha) {
  const int64_t row_panels = ceil_div(m, tile_rows), tasks = ceil_div(n, tile_columns * 4);
  if (row_panels <= most_row_panels(k) && m * k <= 4 * block_floats && (row_panels <= 2 || tasks >= thread_count()))
    return multiply_few_rows(c, a, b, m, n, k, alpha);
  const int64_t most = packed_floats / (k + 1) / tile_columns * tile_columns, step = most < tile_columns ? tile_columns : most;
  for (int64_t first = 0; first < n; first += step) {
    Columns columns{first, first + step < n ? first + step : n, k, nullptr};
    columns.data = static_cast<float*>(scratch(0, columns.count() * k * tile_columns * 4));
    pack_columns(columns, b);
    multiply_columns(c, a, columns, m, alpha);
  }
}
