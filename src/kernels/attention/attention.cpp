// Forward and backward of attention.ts over blocks of 64 queries and 64 keys, as products of small matrices.
//
// Forward, one task per sequence, head and block of queries: the running maximum m, sum l and output o of a row are rescaled by
// exp(m - m') when a block of keys raises m to m'. Backward, one task per sequence and key head, which owns dk and dv, and dq of the query
// heads of its group: sums run over blocks of keys, then heads, then blocks of queries, whatever the number of threads.
#include <algorithm>
#include <limits>
#include "cpu.h"
#include "elementary.h"
#include "small_gemm.h"

namespace {

constexpr int64_t block = 64;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// Where heads lie: `row` elements from one row of a sequence to the next.
struct Layout {
  int64_t kv_heads, group, sequence, dim, row, out_row, blocks;
  float scale;

  template <class Args> explicit Layout(const Args& a)
      : kv_heads((a.columns - a.heads) / 2), group(a.heads / kv_heads), sequence(a.sequence), dim(a.dim),
        row(a.columns * a.dim), out_row(a.heads * a.dim), blocks((sequence + block - 1) / block),
        scale((float)(1.0 / std::sqrt((double)dim))) {}

  int64_t rows_at(int64_t begin) const { return std::min(block, sequence - begin); }
};

// The first and the last key that a row sees in a block of keys, counted in the block: first > last where there is none.
struct Visible {
  int first, last;
  Visible(int64_t start, int64_t position, int64_t keys)
      : first((int)std::clamp<int64_t>(start - keys, 0, block)), last((int)std::min(position - keys, block - 1)) {}
  bool all() const { return first == 0 && last == block - 1; }
};

int64_t earliest(const int32_t* starts, int64_t n) { return std::max(0, *std::min_element(starts, starts + n)); }

// The row of scores becomes exp(s - m'), where m' is the largest so far: returns the sum, and in `shrink` exp(m - m').
float exponentials(float* row, const Visible& visible, float& m, float& shrink) {
  if (!visible.all())
    for (int c = 0; c < block; c++) row[c] = c < visible.first || c > visible.last ? minus_infinity : row[c];
  float most[16], sums[16] = {};
  for (float& x : most) x = m;
  for (int c = 0; c < block; c += 16)
    for (int i = 0; i < 16; i++) most[i] = row[c + i] > most[i] ? row[c + i] : most[i];
  float raised = m;
  for (float x : most) raised = x > raised ? x : raised;
  const float base = raised == minus_infinity ? 0 : raised;
  for (int c = 0; c < block; c += 16)
    for (int i = 0; i < 16; i++) {
      row[c + i] = fast_exp(row[c + i] - base);
      sums[i] += row[c + i];
    }
  shrink = fast_exp(m - base);
  m = raised;
  float sum = 0;
  for (float x : sums) sum += x;
  return sum;
}

template <class Act> float dot(const Act* a, const Act* b, int64_t n) {
  float sums[16] = {};
  int64_t d = 0;
  for (; d + 16 <= n; d += 16)
    for (int i = 0; i < 16; i++) sums[i] = multiply_add(load(a + d + i), load(b + d + i), sums[i]);
  float sum = 0;
  for (; d < n; d++) sum += load(a + d) * load(b + d);
  for (float x : sums) sum += x;
  return sum;
}

template <class Act>
void write_rows(Act* to, int64_t stride, const float* from, int64_t rows, int64_t columns, bool accumulate) {
  for (int64_t r = 0; r < rows; r++, to += stride, from += columns)
    if (accumulate)
      for (int64_t d = 0; d < columns; d++) store(to + d, load(to + d) + from[d]);
    else
      for (int64_t d = 0; d < columns; d++) store(to + d, from[d]);
}

}  // namespace

template <class Act> static void attention(const attention_args<Act>& a) {
  const Layout at(a);
  parallel_for(a.rows / at.sequence * a.heads * at.blocks, [&](int64_t task) {
    // The last blocks have the most keys and go first, so that threads finish together.
    const int64_t begin = (at.blocks - 1 - task % at.blocks) * block, queries = at.rows_at(begin);
    const int64_t h = task / at.blocks % a.heads, origin = task / at.blocks / a.heads * at.sequence;
    const Act* q = a.qkv + (origin + begin) * at.row + h * at.dim;
    const Act* k = a.qkv + origin * at.row + (a.heads + h / at.group) * at.dim;
    const Act* v = k + at.kv_heads * at.dim;
    const int32_t* starts = a.starts + origin + begin;

    float* s = static_cast<float*>(scratch(1, (block * block + block * at.dim) * 4));
    float* o = s + block * block;
    float m[block], l[block];
    std::fill(m, m + block, minus_infinity);
    std::fill(l, l + block, 0.0f);
    std::fill(o, o + block * at.dim, 0.0f);
    for (int64_t keys = earliest(starts, queries) / block * block; keys <= begin; keys += block) {
      const int64_t count = at.rows_at(keys);
      small_gemm(queries, count, at.dim, at.scale, q, at.row, 1, k + keys * at.row, 1, at.row, s, block, false);
      for (int64_t r = 0; r < queries; r++) {
        float shrink;
        const float sum = exponentials(s + r * block, Visible(starts[r], begin + r, keys), m[r], shrink);
        l[r] = l[r] * shrink + sum;
        if (shrink != 1)
          for (int64_t d = 0; d < at.dim; d++) o[r * at.dim + d] *= shrink;
      }
      small_gemm(queries, at.dim, count, 1, s, block, 1, v + keys * at.row, at.row, 1, o, at.dim, true);
    }
    for (int64_t r = 0; r < queries; r++) {
      const float inverse = 1 / l[r];
      for (int64_t d = 0; d < at.dim; d++) o[r * at.dim + d] *= inverse;
      a.lse[(origin + begin + r) * a.heads + h] = m[r] + fast_log(l[r]);
    }
    write_rows(a.y + (origin + begin) * at.out_row + h * at.dim, at.out_row, o, queries, at.dim, false);
  });
}
EXPORT_ACT(attention)

template <class Act> static void attention_backward(const attention_backward_args<Act>& a) {
  const Layout at(a);
  parallel_for(a.rows / at.sequence * at.kv_heads, [&](int64_t task) {
    const int64_t origin = task / at.kv_heads * at.sequence, kv = task % at.kv_heads;
    const int64_t first_head = kv * at.group, key_column = (a.heads + kv) * at.dim;
    const int64_t value_column = key_column + at.kv_heads * at.dim, head_size = at.sequence * at.dim;
    const Act* qkv = a.qkv + origin * at.row;
    const int32_t* starts = a.starts + origin;

    const int64_t floats = at.group * (head_size + at.sequence) + 2 * block * at.dim + 2 * block * block;
    float* p = static_cast<float*>(scratch(1, floats * 4));
    float *ds = p + block * block, *dk = ds + block * block, *dv = dk + block * at.dim, *dq = dv + block * at.dim;
    float* delta = dq + at.group * head_size;
    std::fill(dq, dq + at.group * head_size, 0.0f);
    for (int64_t r = 0; r < at.sequence; r++)
      for (int64_t g = 0; g < at.group; g++) {
        const int64_t out = (origin + r) * at.out_row + (first_head + g) * at.dim;
        delta[g * at.sequence + r] = dot(a.dy + out, a.y + out, at.dim);
      }

    for (int64_t keys = 0; keys < at.sequence; keys += block) {
      const int64_t count = at.rows_at(keys);
      const Act* k = qkv + keys * at.row + key_column;
      const Act* v = qkv + keys * at.row + value_column;
      std::fill(dk, dk + 2 * block * at.dim, 0.0f);
      for (int64_t g = 0; g < at.group; g++)
        for (int64_t begin = keys; begin < at.sequence; begin += block) {
          const int64_t queries = at.rows_at(begin), h = first_head + g;
          if (earliest(starts + begin, queries) >= keys + block) continue;
          const Act* q = qkv + begin * at.row + h * at.dim;
          const Act* dy = a.dy + (origin + begin) * at.out_row + h * at.dim;
          small_gemm(queries, count, at.dim, at.scale, q, at.row, 1, k, 1, at.row, p, block, false);
          small_gemm(queries, count, at.dim, 1, dy, at.out_row, 1, v, 1, at.row, ds, block, false);
          for (int64_t r = 0; r < queries; r++) {
            const Visible visible(starts[begin + r], begin + r, keys);
            const float lse = a.lse[(origin + begin + r) * a.heads + h], d = delta[g * at.sequence + begin + r];
            float *p_row = p + r * block, *ds_row = ds + r * block;
            for (int c = 0; c < block; c++) {
              const float e = fast_exp(p_row[c] - lse), slope = e * (ds_row[c] - d);
              const bool hidden = c < visible.first || c > visible.last;
              p_row[c] = hidden ? 0 : e;
              ds_row[c] = hidden ? 0 : slope;
            }
          }
          small_gemm(count, at.dim, queries, 1, p, 1, block, dy, at.out_row, 1, dv, at.dim, true);
          small_gemm(count, at.dim, queries, at.scale, ds, 1, block, q, at.row, 1, dk, at.dim, true);
          float* dq_block = dq + g * head_size + begin * at.dim;
          small_gemm(queries, at.dim, count, at.scale, ds, block, 1, k, at.row, 1, dq_block, at.dim, true);
        }
      Act* to = a.dqkv + (origin + keys) * at.row;
      write_rows(to + key_column, at.row, dk, count, at.dim, a.accumulate);
      write_rows(to + value_column, at.row, dv, count, at.dim, a.accumulate);
    }
    for (int64_t g = 0; g < at.group; g++)
      write_rows(a.dqkv + origin * at.row + (first_head + g) * at.dim, at.row, dq + g * head_size, at.sequence, at.dim,
                 a.accumulate);
  });
}
EXPORT_ACT(attention_backward)
