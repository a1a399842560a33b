// Forward and backward of attention.ts over blocks of 64 queries and 64 keys.
//
// Forward, one task per sequence, head and block of queries: the running maximum m, sum l and output o of a row are rescaled by
// exp(m - m') when a block of keys raises m to m'. Backward, one task per sequence and key head, which owns dk and dv, and dq of the query
// heads of its group: sums run over blocks of keys, then heads, then blocks of queries, whatever the number of threads.
//
// Blocks are copied to FP32 scratch in the layout that the products want: dim padded with zeros to a multiple of 16, keys and values also
// transposed.
#include <limits>
#include "cpu.h"
#include "elementary.h"

namespace {

constexpr int64_t block = 64;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// c[m,n] += a[m,k] b[k,n]; element (i, k) of a is at i * row + k * column.
void add_product(float* c, int64_t ldc, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb,
                 int64_t m, int64_t n, int64_t depth) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t k = 0; k < depth; k++) {
      const float factor = a[i * row + k * column];
      for (int64_t j = 0; j < n; j++) c[i * ldc + j] = multiply_add(factor, b[k * ldb + j], c[i * ldc + j]);
    }
}

// Rows of one head in a tensor of [rows, heads, dim].
template <class Act> struct Head {
  Act* data;
  int64_t stride, dim;
};

// to[n, width] = factor * rows begin .. begin+n, zeros in columns dim .. width.
template <class Act>
void copy_rows(float* to, int64_t width, Head<const Act> from, int64_t begin, int64_t n, float factor = 1) {
  for (int64_t r = 0; r < n; r++) {
    const Act* x = from.data + (begin + r) * from.stride;
    for (int64_t d = 0; d < from.dim; d++) to[r * width + d] = load(x + d) * factor;
    for (int64_t d = from.dim; d < width; d++) to[r * width + d] = 0;
  }
}

// to[dim, block] = the rows as columns, zeros in columns n .. block.
template <class Act> void copy_columns(float* to, Head<const Act> from, int64_t begin, int64_t n) {
  if (n < block) memset(to, 0, (size_t)(from.dim * block * 4));
  for (int64_t r = 0; r < n; r++) {
    const Act* x = from.data + (begin + r) * from.stride;
    for (int64_t d = 0; d < from.dim; d++) to[d * block + r] = load(x + d);
  }
}

template <class Act> void write_rows(Head<Act> to, int64_t begin, int64_t n, const float* from, int64_t width, bool add) {
  for (int64_t r = 0; r < n; r++) {
    Act* y = to.data + (begin + r) * to.stride;
    const float* x = from + r * width;
    if (add)
      for (int64_t d = 0; d < to.dim; d++) store(y + d, load(y + d) + x[d]);
    else
      for (int64_t d = 0; d < to.dim; d++) store(y + d, x[d]);
  }
}

// The first and the last key of block `keys` that a row sees, counted in the block: first > last where there is none.
struct Visible {
  int64_t first, last;
  Visible(int64_t start, int64_t position, int64_t keys) : first(start - keys), last(position - keys) {
    if (first < 0) first = 0;
    if (last > block - 1) last = block - 1;
  }
};

int64_t earliest(const int32_t* starts, int64_t n) {
  int64_t result = starts[0];
  for (int64_t r = 1; r < n; r++) result = starts[r] < result ? starts[r] : result;
  return result < 0 ? 0 : result;
}

}  // namespace

template <class Act> static void attention(const attention_args<Act>& a) {
  const int64_t kv_heads = (a.columns - a.heads) / 2, group = a.heads / kv_heads;
  const int64_t blocks = (a.sequence + block - 1) / block, width = padded(a.dim);
  const float scale = (float)(1.0 / std::sqrt((double)a.dim));
  parallel_for(a.rows / a.sequence * a.heads * blocks, [&](int64_t task) {
    // The last blocks have the most keys and go first, so that threads finish together.
    const int64_t begin = (blocks - 1 - task % blocks) * block, h = task / blocks % a.heads;
    const int64_t origin = task / blocks / a.heads * a.sequence, stride = a.columns * a.dim;
    const int64_t queries = a.sequence - begin < block ? a.sequence - begin : block;
    const Act* first = a.qkv + origin * stride;
    const Head<const Act> q{first + h * a.dim, stride, a.dim};
    const Head<const Act> k{first + (a.heads + h / group) * a.dim, stride, a.dim};
    const Head<const Act> v{first + (a.heads + kv_heads + h / group) * a.dim, stride, a.dim};
    const int32_t* starts = a.starts + origin + begin;

    float* memory = static_cast<float*>(scratch(1, (4 * block * width + block * block) * 4));
    float *qs = memory, *kt = qs + block * width, *vs = kt + block * width, *o = vs + block * width, *s = o + block * width;
    float m[block], l[block];
    for (int64_t r = 0; r < block; r++) m[r] = minus_infinity, l[r] = 0;
    memset(o, 0, (size_t)(block * width * 4));
    copy_rows(qs, width, q, begin, queries, scale);

    for (int64_t keys = earliest(starts, queries) / block * block; keys <= begin; keys += block) {
      const int64_t count = a.sequence - keys < block ? a.sequence - keys : block;
      copy_columns(kt, k, keys, count);
      copy_rows(vs, width, v, keys, count);
      memset(s, 0, (size_t)(queries * block * 4));
      add_product(s, block, qs, width, 1, kt, block, queries, block, a.dim);
      for (int64_t r = 0; r < queries; r++) {
        float* row = s + r * block;
        const Visible visible(starts[r], begin + r, keys);
        for (int64_t c = 0; c < block; c++) row[c] = c < visible.first || c > visible.last ? minus_infinity : row[c];
        float most[16];
        for (int64_t i = 0; i < 16; i++) most[i] = m[r];
        for (int64_t c = 0; c < block; c += 16)
          for (int64_t i = 0; i < 16; i++) most[i] = row[c + i] > most[i] ? row[c + i] : most[i];
        float raised = most[0];
        for (float x : most) raised = x > raised ? x : raised;
        const float base = raised == minus_infinity ? 0 : raised;
        float sums[16] = {};
        for (int64_t c = 0; c < block; c += 16)
          for (int64_t i = 0; i < 16; i++) {
            row[c + i] = fast_exp(row[c + i] - base);
            sums[i] += row[c + i];
          }
        const float shrink = fast_exp(m[r] - base);
        float sum = 0;
        for (float x : sums) sum += x;
        l[r] = l[r] * shrink + sum;
        m[r] = raised;
        if (shrink != 1)
          for (int64_t d = 0; d < width; d++) o[r * width + d] *= shrink;
      }
      add_product(o, width, s, block, 1, vs, width, queries, width, count);
    }
    for (int64_t r = 0; r < queries; r++) {
      const float inverse = 1 / l[r];
      for (int64_t d = 0; d < width; d++) o[r * width + d] *= inverse;
      a.lse[(origin + begin + r) * a.heads + h] = m[r] + fast_log(l[r]);
    }
    const Head<Act> y{a.y + (origin * a.heads + h) * a.dim, a.heads * a.dim, a.dim};
    write_rows(y, begin, queries, o, width, false);
  });
}
EXPORT_ACT(attention)

template <class Act> static void attention_backward(const attention_backward_args<Act>& a) {
  const int64_t kv_heads = (a.columns - a.heads) / 2, group = a.heads / kv_heads;
  const int64_t width = padded(a.dim), rounded = (a.sequence + block - 1) / block * block;
  const float scale = (float)(1.0 / std::sqrt((double)a.dim));
  parallel_for(a.rows / a.sequence * kv_heads, [&](int64_t task) {
    const int64_t origin = task / kv_heads * a.sequence, kv = task % kv_heads;
    const int64_t stride = a.columns * a.dim, out_stride = a.heads * a.dim;
    const Act* first = a.qkv + origin * stride;
    Act* gradient = a.dqkv + origin * stride;
    const int32_t* starts = a.starts + origin;
    const int64_t key_head = (a.heads + kv) * a.dim, value_head = key_head + kv_heads * a.dim;

    const int64_t floats = 2 * group * rounded * width + group * rounded + 7 * block * width + 2 * block * block;
    float* memory = static_cast<float*>(scratch(1, floats * 4));
    const auto take = [&](int64_t n) {
      float* result = memory;
      memory += n;
      return result;
    };
    float *qs = take(group * rounded * width), *dq = take(group * rounded * width), *delta = take(group * rounded);
    float *kt = take(block * width), *vt = take(block * width), *ks = take(block * width), *dk = take(block * width),
          *dv = take(block * width), *dys = take(block * width), *spare = take(block * width);
    float *p = take(block * block), *ds = take(block * block);

    memset(dq, 0, (size_t)(group * rounded * width * 4));
    for (int64_t g = 0; g < group; g++) {
      const int64_t h = kv * group + g;
      copy_rows(qs + g * rounded * width, width, Head<const Act>{first + h * a.dim, stride, a.dim}, 0, a.sequence, scale);
      for (int64_t begin = 0; begin < a.sequence; begin += block) {
        const int64_t n = a.sequence - begin < block ? a.sequence - begin : block;
        const int64_t at = (origin * a.heads + h) * a.dim;
        copy_rows(dys, width, Head<const Act>{a.dy + at, out_stride, a.dim}, begin, n);
        copy_rows(spare, width, Head<const Act>{a.y + at, out_stride, a.dim}, begin, n);
        for (int64_t r = 0; r < n; r++) {
          float sums[16] = {};
          for (int64_t d = 0; d < width; d += 16)
            for (int64_t i = 0; i < 16; i++) sums[i] += dys[r * width + d + i] * spare[r * width + d + i];
          float sum = 0;
          for (float x : sums) sum += x;
          delta[g * rounded + begin + r] = sum;
        }
      }
    }

    for (int64_t keys = 0; keys < a.sequence; keys += block) {
      const int64_t count = a.sequence - keys < block ? a.sequence - keys : block;
      const Head<const Act> k{first + key_head, stride, a.dim}, v{first + value_head, stride, a.dim};
      copy_columns(kt, k, keys, count);
      copy_columns(vt, v, keys, count);
      copy_rows(ks, width, k, keys, count);
      memset(dk, 0, (size_t)(block * width * 4));
      memset(dv, 0, (size_t)(block * width * 4));
      for (int64_t g = 0; g < group; g++)
        for (int64_t begin = keys; begin < a.sequence; begin += block) {
          const int64_t queries = a.sequence - begin < block ? a.sequence - begin : block;
          if (earliest(starts + begin, queries) >= keys + block) continue;
          const int64_t h = kv * group + g;
          const float* q = qs + (g * rounded + begin) * width;
          copy_rows(dys, width, Head<const Act>{a.dy + (origin * a.heads + h) * a.dim, out_stride, a.dim}, begin, queries);
          memset(p, 0, (size_t)(queries * block * 4));
          memset(ds, 0, (size_t)(queries * block * 4));
          add_product(p, block, q, width, 1, kt, block, queries, block, a.dim);
          add_product(ds, block, dys, width, 1, vt, block, queries, block, a.dim);
          for (int64_t r = 0; r < queries; r++) {
            const Visible visible(starts[begin + r], begin + r, keys);
            const float lse = a.lse[(origin + begin + r) * a.heads + h], d = delta[g * rounded + begin + r];
            for (int64_t c = 0; c < block; c++) {
              const bool hidden = c < visible.first || c > visible.last;
              const float e = fast_exp(p[r * block + c] - lse);
              p[r * block + c] = hidden ? 0 : e;
              ds[r * block + c] = hidden ? 0 : e * (ds[r * block + c] - d);
            }
          }
          add_product(dv, width, p, 1, block, dys, width, count, width, queries);
          add_product(dk, width, ds, 1, block, q, width, count, width, queries);
          add_product(dq + (g * rounded + begin) * width, width, ds, block, 1, ks, width, queries, width, count);
        }
      // q carries 1 / sqrt(dim) already, k does not.
      write_rows(Head<Act>{gradient + key_head, stride, a.dim}, keys, count, dk, width, a.accumulate);
      write_rows(Head<Act>{gradient + value_head, stride, a.dim}, keys, count, dv, width, a.accumulate);
    }
    for (int64_t i = 0; i < group * rounded * width; i++) dq[i] *= scale;
    for (int64_t g = 0; g < group; g++)
      write_rows(Head<Act>{gradient + (kv * group + g) * a.dim, stride, a.dim}, 0, a.sequence, dq + g * rounded * width, width,
                 a.accumulate);
  });
}
EXPORT_ACT(attention_backward)
