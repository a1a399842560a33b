// attention.ts. With BF16 activations: attention_hopper_cuda.h and attention_hopper_backward_cuda.h on Hopper, attention_bf16_cuda.h elsewhere. With FP32: blocks of 64 queries and 64 keys (tile_cuda.h) and fused multiply-adds,
// as there; one entry for heads of up to 64 elements and one for up to 128.
#include "attention_bf16_cuda.h"
#include "attention_hopper_backward_cuda.h"
#include "attention_hopper_cuda.h"
#include "tile_cuda.h"

// Rows of a block that a sequence still has.
__device__ inline int64_t rows_at(const Heads& at, int64_t begin) { return at.sequence - begin < TILE ? at.sequence - begin : TILE; }

__device__ inline float minus_infinity() { return float_of(0xff800000u); }

// First key that each of 64 queries sees; queries past the end see none. Returns the smallest; has barriers.
__device__ inline int64_t first_keys(int32_t (&first)[TILE], const int32_t* starts, int64_t queries, int64_t sequence) {
  __syncthreads();
  for (int r = threadIdx.x; r < TILE; r += TILE_THREADS) {
    const int32_t start = r < queries ? starts[r] : (int32_t)sequence;
    first[r] = start < 0 ? 0 : start;
  }
  __syncthreads();
  int32_t smallest = first[0];
  for (int r = 1; r < TILE; r++) smallest = first[r] < smallest ? first[r] : smallest;
  return smallest;
}

template <int D> __device__ void attend_f32(const attention_args<float>& a) {
  using Act = float;
  using Rows = SharedMatrix<TILE, D>;
  extern __shared__ uint4 shared_memory[];
  char* memory = reinterpret_cast<char*>(shared_memory);
  const Rows q(memory), k(memory + Rows::bytes), v(memory + 2 * Rows::bytes);
  // Probabilities replace the keys that they were computed from.
  const SharedMatrix<TILE, TILE> p(k.data);
  __shared__ int32_t first[TILE];

  const Heads at(a);
  // The last blocks of queries have the most keys and go first.
  const int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE, h = blockIdx.y, origin = blockIdx.z * at.sequence;
  const int64_t queries = rows_at(at, begin);
  const Act* keys_at = a.qkv + origin * at.row + (a.heads + h / at.group) * at.dim;
  const Act* values_at = keys_at + at.kv_heads * at.dim;
  const int64_t earliest = first_keys(first, a.starts + origin + begin, queries, at.sequence);
  q.load_from(a.qkv + (origin + begin) * at.row + h * at.dim, at.row, queries, at.dim);

  Tile<D> o;
  Tile<TILE> s;
  float m[s.rows], l[s.rows];
  clear(o);
#pragma unroll
  for (int i = 0; i < s.rows; i++) m[i] = minus_infinity(), l[i] = 0;

  for (int64_t keys = earliest / TILE * TILE; keys <= begin; keys += TILE) {
    const int64_t count = rows_at(at, keys);
    __syncthreads();
    k.load_from(keys_at + keys * at.row, at.row, count, at.dim);
    v.load_from(values_at + keys * at.row, at.row, count, at.dim);
    __syncthreads();
    clear(s);
    s.template multiply<D, AsIs, Transposed>(q, k);
#pragma unroll
    for (int i = 0; i < s.rows; i++) {
      const int lowest = (int)(first[s.row(i)] - keys), highest = (int)(begin + s.row(i) - keys);
      float raised = minus_infinity();
#pragma unroll
      for (int j = 0; j < s.cols; j++) {
        if (s.col(j) < lowest || s.col(j) > highest) s.v[i][j] = minus_infinity();
        raised = fmaxf(raised, s.v[i][j]);
      }
      raised = fmaxf(m[i], largest_of_row(raised) * at.scale_log2);
      const float base = raised == minus_infinity() ? 0.0f : raised, shrink = exp2f(m[i] - base);
      m[i] = raised;
      l[i] *= shrink;
#pragma unroll
      for (int j = 0; j < s.cols; j++) {
        s.v[i][j] = exp2f(fmaf(s.v[i][j], at.scale_log2, -base));
        l[i] += s.v[i][j];
      }
#pragma unroll
      for (int j = 0; j < o.cols; j++) o.v[i][j] *= shrink;
    }
    __syncthreads();
    each(s, [&](int i, int j, int r, int c) { p.put(r, c, s.v[i][j]); });
    __syncthreads();
    o.template multiply<TILE, AsIs, AsIs>(p, v);
  }
#pragma unroll
  for (int i = 0; i < s.rows; i++) {
    const float sum = sum_of_row(l[i]);
#pragma unroll
    for (int j = 0; j < o.cols; j++) o.v[i][j] /= sum;
    if (threadIdx.x % s.lanes == 0 && s.row(i) < queries)
      a.lse[(origin + begin + s.row(i)) * a.heads + h] = (m[i] + log2f(sum)) * ln_2;
  }
  write_rows(o, a.y + (origin + begin) * at.out_row + h * at.dim, at.out_row, queries, at.dim, false);
}

template <int D> __device__ void attend(const attention_args<float>& a) { attend_f32<D>(a); }
template <int D> __device__ void attend(const attention_args<bf16>& a) { attend_bf16<D>(a); }

template <class Act> __device__ void attention_forward64(const attention_args<Act>& a, void*) { attend<64>(a); }
EXPORT_CUDA_ACT_ENTRY(attention, forward64, 128, 4)
template <class Act> __device__ void attention_forward128(const attention_args<Act>& a, void*) { attend<128>(a); }
EXPORT_CUDA_ACT_ENTRY(attention, forward128, 128)

__device__ inline void attention_hopper64(const attention_args<bf16>& a, void*) { attend_hopper<64>(a); }
EXPORT_CUDA_BF16_ENTRY(attention, hopper64, 384, 1)
__device__ inline void attention_hopper128(const attention_args<bf16>& a, void*) { attend_hopper<128>(a); }
EXPORT_CUDA_BF16_ENTRY(attention, hopper128, 384, 1)

// D = dy.y of every row and head, in the workspace; 16 lanes for each, which take 8 elements at a time where both lie so.
template <class Act> __device__ void attention_backward_dots(const attention_backward_args<Act>& a, void* workspace) {
  float* dots = static_cast<float*>(workspace);
  const int lane = threadIdx.x % 16;
  const int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 16;
  float sum = 0;
  if (i < a.rows * a.heads) {
    const Act *const dy = a.dy + i * a.dim, *const y = a.y + i * a.dim;
    if (a.dim % 8 == 0)
      for (int d = 8 * lane; d < a.dim; d += 128) {
        const Eight x = load_eight(dy + d), z = load_eight(y + d);
        for (int e = 0; e < 8; e++) sum = fmaf(x.v[e], z.v[e], sum);
      }
    else
      for (int d = lane; d < a.dim; d += 16) sum = fmaf(load(dy + d), load(y + d), sum);
  }
  for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0 && i < a.rows * a.heads) dots[i] = sum;
}
EXPORT_CUDA_ACT_ENTRY(attention_backward, dots, 256)

// What the backward pass knows of 64 queries of a head.
struct QueryRows {
  int32_t first[TILE];
  // lse log2(e), and D.
  float lse[TILE], dot[TILE];

  // Returns the first key that any of them sees; has barriers.
  template <class Act>
  __device__ int64_t load_from(const attention_backward_args<Act>& a, const float* dots, int64_t row, int64_t h, int64_t queries) {
    const int64_t earliest = first_keys(first, a.starts + row, queries, a.sequence);
    for (int r = threadIdx.x; r < TILE; r += TILE_THREADS) {
      const bool valid = r < queries;
      lse[r] = valid ? a.lse[(row + r) * a.heads + h] * log2_e : 0.0f;
      dot[r] = valid ? dots[(row + r) * a.heads + h] : 0.0f;
    }
    __syncthreads();
    return earliest;
  }
};

// p = exp(q k^T / sqrt(dim) - lse) in s, and p (dy v^T - D) in ds; `offset` is the first query's position less the first key's.
template <int D, class Rows>
__device__ void slopes(Tile<TILE>& s, Tile<TILE>& ds, const Rows& q, const Rows& k, const Rows& dy, const Rows& v, const QueryRows& rows,
                       int64_t keys, int64_t offset, float scale_log2) {
  clear(s);
  clear(ds);
  s.template multiply<D, AsIs, Transposed>(q, k);
  ds.template multiply<D, AsIs, Transposed>(dy, v);
#pragma unroll
  for (int i = 0; i < s.rows; i++) {
    const int r = s.row(i), lowest = (int)(rows.first[r] - keys), highest = (int)(offset + r);
    const float lse = rows.lse[r], dot = rows.dot[r];
#pragma unroll
    for (int j = 0; j < s.cols; j++) {
      const bool hidden = s.col(j) < lowest || s.col(j) > highest;
      const float p = exp2f(fmaf(s.v[i][j], scale_log2, -lse)), slope = p * (ds.v[i][j] - dot);
      s.v[i][j] = hidden ? 0.0f : p;
      ds.v[i][j] = hidden ? 0.0f : slope;
    }
  }
}

template <int N> __device__ void scale_by(Tile<N>& tile, float factor) {
  each(tile, [&](int i, int j, int, int) { tile.v[i][j] *= factor; });
}

template <int D> __device__ void attend_keys_f32(const attention_backward_args<float>& a, const float* dots) {
  using Act = float;
  using Rows = SharedMatrix<TILE, D>;
  using Square = SharedMatrix<TILE, TILE>;
  extern __shared__ uint4 shared_memory[];
  char* memory = reinterpret_cast<char*>(shared_memory);
  const Rows k(memory), v(memory + Rows::bytes), q(memory + 2 * Rows::bytes), dy(memory + 3 * Rows::bytes);
  // Of p, then of ds.
  const Square square(memory + 4 * Rows::bytes);
  __shared__ QueryRows rows;

  const Heads at(a);
  // The first blocks of keys are seen by the most queries.
  const int64_t keys = (int64_t)blockIdx.x * TILE, kv = blockIdx.y, origin = blockIdx.z * at.sequence, count = rows_at(at, keys);
  const int64_t key_column = (a.heads + kv) * at.dim, value_column = key_column + at.kv_heads * at.dim;
  k.load_from(a.qkv + (origin + keys) * at.row + key_column, at.row, count, at.dim);
  v.load_from(a.qkv + (origin + keys) * at.row + value_column, at.row, count, at.dim);

  Tile<D> dk, dv;
  clear(dk);
  clear(dv);
  for (int64_t h = kv * at.group; h < (kv + 1) * at.group; h++)
    for (int64_t begin = keys; begin < at.sequence; begin += TILE) {
      const int64_t queries = rows_at(at, begin), row = origin + begin;
      if (rows.load_from(a, dots, row, h, queries) >= keys + TILE) continue;
      q.load_from(a.qkv + row * at.row + h * at.dim, at.row, queries, at.dim);
      dy.load_from(a.dy + row * at.out_row + h * at.dim, at.out_row, queries, at.dim);
      __syncthreads();
      Tile<TILE> s, slope;
      slopes<D>(s, slope, q, k, dy, v, rows, keys, begin - keys, at.scale_log2);
      each(s, [&](int i, int j, int r, int c) { square.put(r, c, s.v[i][j]); });
      __syncthreads();
      dv.template multiply<TILE, Transposed, AsIs>(square, dy);
      __syncthreads();
      each(slope, [&](int i, int j, int r, int c) { square.put(r, c, slope.v[i][j]); });
      __syncthreads();
      dk.template multiply<TILE, Transposed, AsIs>(square, q);
    }
  scale_by(dk, at.scale);
  Act* to = a.dqkv + (origin + keys) * at.row;
  write_rows(dk, to + key_column, at.row, count, at.dim, a.accumulate);
  write_rows(dv, to + value_column, at.row, count, at.dim, a.accumulate);
}

template <int D> __device__ void attend_queries_f32(const attention_backward_args<float>& a, const float* dots) {
  using Act = float;
  using Rows = SharedMatrix<TILE, D>;
  extern __shared__ uint4 shared_memory[];
  char* memory = reinterpret_cast<char*>(shared_memory);
  const Rows q(memory), dy(memory + Rows::bytes), k(memory + 2 * Rows::bytes), v(memory + 3 * Rows::bytes);
  const SharedMatrix<TILE, TILE> ds(memory + 4 * Rows::bytes);
  __shared__ QueryRows rows;

  const Heads at(a);
  const int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE, h = blockIdx.y, origin = blockIdx.z * at.sequence;
  const int64_t queries = rows_at(at, begin), row = origin + begin;
  const Act* keys_at = a.qkv + origin * at.row + (a.heads + h / at.group) * at.dim;
  const Act* values_at = keys_at + at.kv_heads * at.dim;
  const int64_t earliest = rows.load_from(a, dots, row, h, queries);
  q.load_from(a.qkv + row * at.row + h * at.dim, at.row, queries, at.dim);
  dy.load_from(a.dy + row * at.out_row + h * at.dim, at.out_row, queries, at.dim);

  Tile<D> dq;
  clear(dq);
  for (int64_t keys = earliest / TILE * TILE; keys <= begin; keys += TILE) {
    const int64_t count = rows_at(at, keys);
    __syncthreads();
    k.load_from(keys_at + keys * at.row, at.row, count, at.dim);
    v.load_from(values_at + keys * at.row, at.row, count, at.dim);
    __syncthreads();
    Tile<TILE> s, slope;
    slopes<D>(s, slope, q, k, dy, v, rows, keys, begin - keys, at.scale_log2);
    each(slope, [&](int i, int j, int r, int c) { ds.put(r, c, slope.v[i][j]); });
    __syncthreads();
    dq.template multiply<TILE, AsIs, AsIs>(ds, k);
  }
  scale_by(dq, at.scale);
  write_rows(dq, a.dqkv + row * at.row + h * at.dim, at.row, queries, at.dim, a.accumulate);
}

template <int D> __device__ void attend_keys(const attention_backward_args<float>& a, const float* dots) { attend_keys_f32<D>(a, dots); }
template <int D> __device__ void attend_keys(const attention_backward_args<bf16>& a, const float* dots) { attend_keys_bf16<D>(a, dots); }
template <int D> __device__ void attend_queries(const attention_backward_args<float>& a, const float* dots) { attend_queries_f32<D>(a, dots); }
template <int D> __device__ void attend_queries(const attention_backward_args<bf16>& a, const float* dots) { attend_queries_bf16<D>(a, dots); }

template <class Act> __device__ void attention_backward_keys64(const attention_backward_args<Act>& a, void* workspace) {
  attend_keys<64>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_ACT_ENTRY(attention_backward, keys64, 128)
template <class Act> __device__ void attention_backward_keys128(const attention_backward_args<Act>& a, void* workspace) {
  attend_keys<128>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_ACT_ENTRY(attention_backward, keys128, 128)
template <class Act> __device__ void attention_backward_queries64(const attention_backward_args<Act>& a, void* workspace) {
  attend_queries<64>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_ACT_ENTRY(attention_backward, queries64, 128)
template <class Act> __device__ void attention_backward_queries128(const attention_backward_args<Act>& a, void* workspace) {
  attend_queries<128>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_ACT_ENTRY(attention_backward, queries128, 128)
__device__ inline void attention_backward_hopper_keys64(const attention_backward_args<bf16>& a, void* workspace) {
  attend_keys_hopper<64>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_BF16_ENTRY(attention_backward, hopper_keys64, 384, 1)
__device__ inline void attention_backward_hopper_keys128(const attention_backward_args<bf16>& a, void* workspace) {
  attend_keys_hopper<128>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_BF16_ENTRY(attention_backward, hopper_keys128, 384, 1)
__device__ inline void attention_backward_hopper_queries64(const attention_backward_args<bf16>& a, void* workspace) {
  attend_queries_hopper<64>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_BF16_ENTRY(attention_backward, hopper_queries64, 384, 1)
__device__ inline void attention_backward_hopper_queries128(const attention_backward_args<bf16>& a, void* workspace) {
  attend_queries_hopper<128>(a, static_cast<const float*>(workspace));
}
EXPORT_CUDA_BF16_ENTRY(attention_backward, hopper_queries128, 384, 1)
