// What the forward and the backward pass of ssd.ts share. Chunks are computed as matrix products. For one head and one chunk of Q
// tokens, with l_i = sum_{j<=i} D_j A counted from the chunk's first token and H the state that enters it (P x N):
//
//   y_i = sum_{j<=i} L_ij (C_i.B_j) D_j x_j + enter_i H C_i + skip x_i        L_ij = e^(l_i - l_j)
//   H'  = carry H + sum_j leave_j D_j x_j B_j^T                               leave_j = e^(l_Q - l_j)
//
// Boundaries of documents only put zeros there: L_ij = 0 where j < starts[i]; enter_i = e^(l_i) if row i sees the token before the chunk,
// else 0; carry = enter of the last row; leave_j = 0 where the last row does not see j.
//
// A task is one sequence and at most four heads of one group, which share C.B^T: its work depends on sizes only.
#pragma once
#include <algorithm>
#include "cpu.h"
#include "elementary.h"
#include "gemm_panel.h"

namespace ssd_chunk {

// Rows of a triangular Q x Q matrix are computed in blocks of so many.
constexpr int64_t block_rows = 16;
constexpr int64_t task_heads = 4;

struct Sizes {
  int64_t batch, sequence, chunk, chunks, groups, state, heads, head_dim, parts;

  template <class Args> explicit Sizes(const Args& a) {
    sequence = a.sequence;
    batch = a.rows / sequence;
    chunk = std::min<int64_t>(a.chunk, sequence);
    chunks = (sequence + chunk - 1) / chunk;
    groups = a.groups;
    state = a.state;
    heads = a.heads;
    head_dim = a.inner / a.heads;
    parts = (heads / groups + task_heads - 1) / task_heads;
  }
  int64_t tasks() const { return batch * groups * parts; }
};

struct Task {
  int64_t sequence, group, part, first_head, heads;

  Task(const Sizes& s, int64_t number) {
    part = number % s.parts;
    group = number / s.parts % s.groups;
    sequence = number / (s.parts * s.groups);
    const int64_t per_group = s.heads / s.groups;
    first_head = group * per_group + part * task_heads;
    heads = std::min(task_heads, per_group - part * task_heads);
  }
};

// Matrices in scratch memory have their rows and columns padded to multiples of 16, a vector of any level. What the padding holds is undefined.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Hands out pieces of one region of memory; first counts how much that will be.
struct Pieces {
  float* memory;
  int64_t used = 0;
  float* vector(int64_t n) {
    float* piece = memory ? memory + used : nullptr;
    used += padded(n);
    return piece;
  }
  float* matrix(int64_t rows, int64_t cols) { return vector(padded(rows) * padded(cols)); }
};

#if defined(__AVX512F__)
constexpr int64_t product_rows = 8;
#else
constexpr int64_t product_rows = 4;
#endif

// product_rows rows of c against `vectors` vectors of columns.
template <int vectors>
inline void product_tile(int64_t k, const float* a, int64_t row_step, int64_t column_step, const float* b, int64_t b_stride, float* c,
                         int64_t c_stride, bool accumulate) {
  vec sums[product_rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < product_rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) sums[r][v] = accumulate ? vec_load(c + r * c_stride + v * vec_lanes) : vec_set(0);
  for (int64_t l = 0; l < k; l++) {
    vec row[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) row[v] = vec_load(b + l * b_stride + v * vec_lanes);
#pragma GCC unroll 8
    for (int r = 0; r < product_rows; r++) {
      const vec factor = vec_set(a[r * row_step + l * column_step]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sums[r][v] = vec_fma(factor, row[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < product_rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) vec_store(c + r * c_stride + v * vec_lanes, sums[r][v]);
}

// c[m, n] (+)= a[m, k] b[k, n]; element (i, j) of a lies at a[i * row_step + j * column_step]. Operands lie in the cache as they are: nothing is
// packed. m and n are rounded up to whole tiles, into the padding; k is not, so that padding never reaches a result.
inline void product(int64_t m, int64_t n, int64_t k, const float* a, int64_t row_step, int64_t column_step, const float* b,
                    int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  n = padded(n);
  for (int64_t j = 0; j < n;) {
    const bool two = n - j >= 2 * vec_lanes;
    const auto tile = two ? product_tile<2> : product_tile<1>;
    for (int64_t i = 0; i < m; i += product_rows)
      tile(k, a + i * row_step, row_step, column_step, b + j, b_stride, c + i * c_stride + j, c_stride, accumulate);
    j += two ? 2 * vec_lanes : vec_lanes;
  }
}

// Lower triangle of c[q, q] = a[q, k] b[k, q], and what lies above it in the blocks of rows that it cuts.
inline void lower_product(int64_t q, int64_t k, const float* a, const float* b, float* c) {
  const int64_t width = padded(q);
  for (int64_t i = 0; i < q; i += block_rows) {
    const int64_t rows = std::min(block_rows, q - i);
    product(rows, i + rows, k, a + i * padded(k), padded(k), 1, b, width, c + i * width, width, false);
  }
}

// c[q, n] += t b, with t lower triangular: zero above the diagonal in the blocks that it cuts, anything in those above.
inline void multiply_lower(int64_t q, int64_t n, const float* t, const float* b, float* c) {
  for (int64_t i = 0; i < q; i += block_rows) {
    const int64_t rows = std::min(block_rows, q - i);
    product(rows, n, i + rows, t + i * padded(q), padded(q), 1, b, padded(n), c + i * padded(n), padded(n), true);
  }
}

// c[q, n] += t^T b.
inline void multiply_lower_transposed(int64_t q, int64_t n, const float* t, const float* b, float* c) {
  for (int64_t i = 0; i < q; i += block_rows) {
    const int64_t rows = std::min(block_rows, q - i);
    product(rows, n, q - i, t + i * padded(q) + i, 1, padded(q), b + i * padded(n), padded(n), c + i * padded(n), padded(n), true);
  }
}

// to[cols, rows] = from[rows, cols] transposed.
inline void transpose(int64_t rows, int64_t cols, const float* from, float* to) {
  for (int64_t r = 0; r < rows; r += vec_lanes)
    for (int64_t c = 0; c < cols; c += vec_lanes) {
      vec block[vec_lanes];
      for (int i = 0; i < vec_lanes; i++) block[i] = vec_load(from + (r + i) * padded(cols) + c);
      ::transpose(block);
      for (int i = 0; i < vec_lanes; i++) vec_store(to + (c + i) * padded(rows) + r, block[i]);
    }
}

// `rows` rows of `cols` elements as floats.
template <class Act> inline void gather(int64_t rows, int64_t cols, const Act* from, int64_t stride, float* __restrict to) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) to[r * padded(cols) + c] = load(from + r * stride + c);
}

// Where a chunk lies: `length` rows from row `row`, at position `begin` of their sequence.
struct Chunk {
  int64_t row, begin, length;

  Chunk(const Sizes& s, const Task& task, int64_t number) {
    begin = number * s.chunk;
    row = task.sequence * s.sequence + begin;
    length = std::min(s.chunk, s.sequence - begin);
  }
};

// D, l and what follows from them for one head and chunk.
struct Decays {
  float *delta, *enter, *leave;
  // l as the sum of two floats, so that its differences are exact to FP32 wherever it has grown to.
  float *high, *low;
  // First token of the chunk that each row sees.
  int32_t* first;
  float rate, carry;
  // Whether any row sees the token before the chunk; if so, the first does.
  bool entered;

  explicit Decays(Pieces& pieces, int64_t chunk) {
    for (float** p : {&delta, &enter, &leave, &high, &low}) *p = pieces.vector(chunk);
    first = reinterpret_cast<int32_t*>(pieces.vector(chunk));
  }

  template <class Args> void compute(const Args& a, const Chunk& chunk, int64_t head) {
    rate = -std::exp(a.aLog[head]);
    for (int64_t i = 0; i < chunk.length; i++)
      delta[i] = load(a.projection + (chunk.row + i) * a.width + a.offset + head) + a.dtBias[head];
    for (int64_t i = 0; i < chunk.length; i++) delta[i] = fast_softplus(delta[i]);
    double sum = 0;
    for (int64_t i = 0; i < chunk.length; i++) {
      sum += (double)delta[i] * rate;
      high[i] = (float)sum;
      low[i] = (float)(sum - high[i]);
      first[i] = (int32_t)std::max<int64_t>(0, a.starts[chunk.row + i] - chunk.begin);
    }
    const int64_t last = chunk.length - 1;
    const float total = high[last], rest = low[last];
    for (int64_t i = 0; i < chunk.length; i++) {
      const float e = fast_exp(high[i]);
      enter[i] = a.starts[chunk.row + i] < chunk.begin ? e : 0.0f;
      const float l = fast_exp((total - high[i]) + (rest - low[i]));
      leave[i] = i >= first[last] ? l : 0.0f;
    }
    carry = enter[last];
    entered = a.starts[chunk.row] < chunk.begin;
  }

  // Calls body(j, L_ij or 0, whether L_ij is one of the triangle's) for all columns j up to the end of row i's block.
  template <class Body> void row(int64_t i, int64_t q, const Body& body) const {
    const int32_t from = first[i], to = (int32_t)i, end = (int32_t)std::min(padded(q), i / block_rows * block_rows + block_rows);
    const float high_i = high[i], low_i = low[i];
#pragma GCC ivdep
    for (int32_t j = 0; j < end; j++) {
      const bool inside = (j >= from) & (j <= to);
      body(j, inside ? fast_exp((high_i - high[j]) + (low_i - low[j])) : 0.0f, inside);
    }
  }
};

}  // namespace ssd_chunk
