// attention.ts with BF16 activations on the tensor cores of any GPU (warpgroup_cuda.h); on Hopper it serves what attention_hopper_cuda.h does not. A block of
// 128 threads owns 64 queries or 64 keys; blocks of 64 of the other kind pass through two buffers in shared memory, one being filled while the other is
// multiplied. Probabilities and their gradients stay in registers, where the sums of one product become the left operand of the next; they are rounded to
// BF16 there.
//
// Forward: the running maximum m, sum l and output o of a query are rescaled by 2^(m - m') when a block of keys raises m to m'; exponents are to
// base 2, their factor log2(e) / sqrt(dim) in one fused operation. Backward: one launch owns keys, whose dk and dv are sums over the query heads of
// their group and blocks of queries in order, from transposed products; one owns queries, whose dq is a sum over blocks of keys in order.
#pragma once
#include "attention_cuda.h"
#include "warpgroup_cuda.h"

static constexpr int STEP = 64;

// Smallest and largest of two values of each thread over the block; has barriers. `notes` are 2 words for each warp.
__device__ inline int2 range_over_block(int x, int y, int32_t* notes) {
  constexpr int warps = WARPGROUP / 32;
  const int least = __reduce_min_sync(0xffffffffu, min(x, y)), most = __reduce_max_sync(0xffffffffu, max(x, y));
  __syncthreads();
  if (lane_of() == 0) notes[threadIdx.x / 32] = least, notes[warps + threadIdx.x / 32] = most;
  __syncthreads();
  int2 range{notes[0], notes[warps]};
#pragma unroll
  for (int w = 1; w < warps; w++) {
    range.x = min(range.x, notes[w]);
    range.y = max(range.y, notes[warps + w]);
  }
  return range;
}

// First key that a query sees; one past the end sees none.
__device__ inline int first_key(const int32_t* starts, int64_t r, int64_t queries, int64_t sequence) {
  const int32_t start = r < queries ? starts[r] : (int32_t)sequence;
  return start < 0 ? 0 : start;
}

// Two matrices, one after the other.
template <class Matrix> struct Buffers {
  uint32_t base;
  __device__ explicit Buffers(const unsigned char* memory) : base(Matrix(memory).base) {}
  __device__ Matrix operator[](int i) const {
    Matrix matrix;
    matrix.base = base + i * Matrix::bytes;
    return matrix;
  }
};

template <int D> __device__ void attend_bf16(const attention_args<bf16>& a) {
  using Rows = Panels<STEP, D>;
  unsigned char* const memory = block_memory();
  const Rows q(memory);
  const Buffers<Rows> k(memory + Rows::bytes), v(memory + 3 * Rows::bytes);
  int32_t* const notes = reinterpret_cast<int32_t*>(memory + 5 * Rows::bytes);

  const Heads at(a);
  // The last blocks of queries have the most keys and go first.
  const int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * STEP, h = blockIdx.y, origin = blockIdx.z * at.sequence;
  const int64_t queries = at.sequence - begin;
  const bf16* const queries_at = a.qkv + (origin + begin) * at.row + h * at.dim;
  const bf16* const keys_at = a.qkv + origin * at.row + (a.heads + h / at.group) * at.dim;
  const bf16* const values_at = keys_at + at.kv_heads * at.dim;
  const bool units = in_whole_units(a.qkv, at.row, at.dim) && at.dim % 8 == 0;

  int first[2];
#pragma unroll
  for (int i = 0; i < 2; i++) first[i] = first_key(a.starts + origin + begin, row_of(i), queries, at.sequence);
  const auto [earliest, latest] = range_over_block(first[0], first[1], notes);
  const int64_t last = min(begin + STEP, at.sequence) - 1;

  auto fetch = [&](int64_t keys, int s) {
    k[s].copy_from(keys_at + keys * at.row, at.row, at.sequence - keys, (int)at.dim, units);
    v[s].copy_from(values_at + keys * at.row, at.row, at.sequence - keys, (int)at.dim, units);
  };
  q.copy_from(queries_at, at.row, queries, (int)at.dim, units);
  int64_t keys = earliest / STEP * STEP;
  if (keys <= last) fetch(keys, 0);

  Sums<D> o;
  Sums<STEP> s;
  Fragments<STEP> p;
  float m[2], l[2];
  o.clear();
  m[0] = m[1] = float_of(0xff800000u);
  l[0] = l[1] = 0;
  for (int stage = 0; keys <= last; keys += STEP, stage ^= 1) {
    finish_copies();
    __syncthreads();
    if (keys + STEP <= last) fetch(keys + STEP, stage ^ 1);
    fence_registers();
    multiply_rows(s, q, k[stage], false);
    commit_products();
    wait_products<0>(s);
    if (keys < latest || keys + STEP - 1 > begin) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int lowest = first[i] - (int)keys, highest = (int)(begin + row_of(i) - keys);
#pragma unroll
        for (int j = 0; j < s.count; j++)
#pragma unroll
          for (int e = 0; e < 2; e++)
            if (col_of(j) + e < lowest || col_of(j) + e > highest) s.v[j][2 * i + e] = float_of(0xff800000u);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float raised = s.v[0][2 * i];
#pragma unroll
      for (int j = 0; j < s.count; j++) raised = fmaxf(raised, fmaxf(s.v[j][2 * i], s.v[j][2 * i + 1]));
      raised = fmaxf(m[i], largest_of_lanes(raised) * at.scale_log2);
      const float base = raised == float_of(0xff800000u) ? 0.0f : raised, shrink = power_of_2(m[i] - base);
      m[i] = raised;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < s.count; j++)
#pragma unroll
        for (int e = 2 * i; e < 2 * i + 2; e++) {
          s.v[j][e] = power_of_2(fmaf(s.v[j][e], at.scale_log2, -base));
          sum += s.v[j][e];
        }
      l[i] = fmaf(l[i], shrink, sum);
#pragma unroll
      for (int j = 0; j < o.count; j++) o.v[j][2 * i] *= shrink, o.v[j][2 * i + 1] *= shrink;
    }
    round_sums(p, s);
    fence_registers();
    multiply_columns(o, p, v[stage], true);
    commit_products();
    wait_products<0>(o);
  }
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float sum = sum_of_lanes(l[i]);
    inverse[i] = 1.0f / sum;
    const int64_t r = row_of(i);
    if (lane_of() % 4 == 0 && r < queries) a.lse[(origin + begin + r) * a.heads + h] = (m[i] + log2f(sum)) * ln_2;
  }
  write_sums(o, a.y + (origin + begin) * at.out_row + h * at.dim, at.out_row, queries, at.dim, false,
             [&](int i) { return inverse[i]; });
}

// What the backward pass knows of passing queries: lse, D and the first key that each sees; and the first keys of the block of queries after them. 0 past
// the end of the sequence, where queries and their gradients are 0 too and add nothing.
struct QueryNotes {
  float lse[STEP], dot[STEP];
  int32_t first[STEP], following[STEP];
};

__device__ inline void copy_word(const void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

// Whether a warp finds any of 64 values for which `test` holds.
template <class Test> __device__ bool any_of_64(const int32_t* values, const Test& test) {
  return __any_sync(0xffffffffu, test(values[lane_of()]) || test(values[lane_of() + 32]));
}

// Products of queries and keys become probabilities. Queries are rows, with lse log2(e) for a lane's two, or where the product is transposed columns.
template <int N> __device__ void probabilities_by_rows(Sums<N>& s, const float (&lse)[2], float scale_log2) {
#pragma unroll
  for (int j = 0; j < s.count; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) s.v[j][e] = power_of_2(fmaf(s.v[j][e], scale_log2, -lse[e / 2]));
}
template <int N> __device__ void probabilities_by_columns(Sums<N>& s, const float* lses, float scale_log2) {
#pragma unroll
  for (int j = 0; j < s.count; j++) {
    const float2 lse = *reinterpret_cast<const float2*>(lses + col_of(j));
#pragma unroll
    for (int e = 0; e < 4; e++) s.v[j][e] = power_of_2(fmaf(s.v[j][e], scale_log2, -log2_e * (e % 2 ? lse.y : lse.x)));
  }
}
// 0 where a query from `begin` on, in columns, does not see a key from `keys` on; `first` are the first keys that they see.
template <int N> __device__ void hide_by_columns(Sums<N>& s, const int32_t* first, int begin, int keys) {
#pragma unroll
  for (int j = 0; j < s.count; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int query = begin + col_of(j) + e % 2, key = keys + row_of(e / 2);
      if (key < first[col_of(j) + e % 2] || key > query) s.v[j][e] = 0;
    }
}
// dy v^T becomes p (dy v^T - D).
template <int N> __device__ void slopes_by_rows(Sums<N>& ds, const Sums<N>& p, const float (&dot)[2]) {
#pragma unroll
  for (int j = 0; j < ds.count; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) ds.v[j][e] = p.v[j][e] * (ds.v[j][e] - dot[e / 2]);
}

template <int D> __device__ void attend_keys_bf16(const attention_backward_args<bf16>& a, const float* dots) {
  using Rows = Panels<STEP, D>;
  unsigned char* const memory = block_memory();
  const Rows k(memory), v(memory + Rows::bytes);
  const Buffers<Rows> q(memory + 2 * Rows::bytes), dy(memory + 4 * Rows::bytes);
  QueryNotes* const notes = reinterpret_cast<QueryNotes*>(memory + 6 * Rows::bytes);

  const Heads at(a);
  // The first blocks of keys are seen by the most queries.
  const int64_t keys = (int64_t)blockIdx.x * STEP, kv = blockIdx.y, origin = blockIdx.z * at.sequence, count = at.sequence - keys;
  const int64_t key_column = (a.heads + kv) * at.dim, value_column = key_column + at.kv_heads * at.dim;
  const bool units = in_whole_units(a.qkv, at.row, at.dim) && in_whole_units(a.dy, at.out_row, at.dim);
  k.copy_from(a.qkv + (origin + keys) * at.row + key_column, at.row, count, (int)at.dim, units);
  v.copy_from(a.qkv + (origin + keys) * at.row + value_column, at.row, count, (int)at.dim, units);

  const int64_t blocks = (at.sequence - keys + STEP - 1) / STEP, all = blocks * at.group;
  const int beyond = (int)keys + STEP;
  // The next block of queries of the group's heads that sees a key of this block's, from `from` on.
  auto next_seen = [&](int64_t from) {
    for (; from < all; from++) {
      const int64_t r = keys + from % blocks * STEP + lane_of();
      const bool sees = (r < at.sequence && a.starts[origin + r] < beyond) || (r + 32 < at.sequence && a.starts[origin + r + 32] < beyond);
      if (__any_sync(0xffffffffu, sees)) break;
    }
    return from;
  };
  auto fetch = [&](int64_t block, int s) {
    const int64_t h = kv * at.group + block / blocks, begin = keys + block % blocks * STEP, queries = at.sequence - begin, row = origin + begin;
    q[s].copy_from(a.qkv + row * at.row + h * at.dim, at.row, queries, (int)at.dim, units);
    dy[s].copy_from(a.dy + row * at.out_row + h * at.dim, at.out_row, queries, (int)at.dim, units);
    const int64_t r = threadIdx.x % STEP, place = (row + r) * a.heads + h;
    QueryNotes& rows = notes[s];
    if (threadIdx.x < STEP) {
      const bool valid = r < queries;
      copy_word(rows.lse + r, valid ? a.lse + place : a.lse, valid);
      copy_word(rows.dot + r, valid ? dots + place : dots, valid);
    } else {
      const bool valid = r < queries, follows = (block + 1) % blocks != 0 && r + STEP < queries;
      copy_word(rows.first + r, valid ? a.starts + row + r : a.starts, valid);
      copy_word(rows.following + r, follows ? a.starts + row + STEP + r : a.starts, follows);
    }
  };

  Sums<D> dk, dv;
  dk.clear();
  dv.clear();
  int64_t block = next_seen(0);
  if (block < all) fetch(block, 0);
  for (int stage = 0; block < all; stage ^= 1) {
    const int64_t begin = keys + block % blocks * STEP;
    finish_copies();
    __syncthreads();
    const QueryNotes& rows = notes[stage];
    const bool seen = any_of_64(rows.following, [&](int first) { return first < beyond; });
    const bool partial = any_of_64(rows.first, [&](int first) { return first > keys; });
    block = seen ? block + 1 : next_seen(block + 2);
    if (block < all) fetch(block, stage ^ 1);

    // Transposed: rows are keys, columns are queries.
    Sums<STEP> s, ds;
    Fragments<STEP> left;
    fence_registers();
    multiply_rows(s, k, q[stage], false);
    commit_products();
    multiply_rows(ds, v, dy[stage], false);
    commit_products();
    wait_products<1>(s);
    probabilities_by_columns(s, rows.lse, at.scale_log2);
    if (partial || begin < keys + 63) hide_by_columns(s, rows.first, (int)begin, (int)keys);
    round_sums(left, s);
    fence_registers();
    multiply_columns(dv, left, dy[stage], true);
    commit_products();
    wait_products<1>(ds);
#pragma unroll
    for (int j = 0; j < s.count; j++) {
      const float2 dot = *reinterpret_cast<const float2*>(rows.dot + col_of(j));
#pragma unroll
      for (int e = 0; e < 4; e++) ds.v[j][e] = s.v[j][e] * (ds.v[j][e] - (e % 2 ? dot.y : dot.x));
    }
    Fragments<STEP> right;
    round_sums(right, ds);
    fence_registers();
    multiply_columns(dk, right, q[stage], true);
    commit_products();
    wait_products<0>(dk);
    wait_products<0>(dv);
  }
  bf16* const to = a.dqkv + (origin + keys) * at.row;
  write_sums(dk, to + key_column, at.row, count, at.dim, a.accumulate, [&](int) { return at.scale; });
  write_sums(dv, to + value_column, at.row, count, at.dim, a.accumulate, [](int) { return 1.0f; });
}

template <int D> __device__ void attend_queries_bf16(const attention_backward_args<bf16>& a, const float* dots) {
  using Rows = Panels<STEP, D>;
  unsigned char* const memory = block_memory();
  const Rows q(memory), dy(memory + Rows::bytes);
  const Buffers<Rows> k(memory + 2 * Rows::bytes), v(memory + 4 * Rows::bytes);
  int32_t* const notes = reinterpret_cast<int32_t*>(memory + 6 * Rows::bytes);

  const Heads at(a);
  const int64_t begin = (int64_t)(gridDim.x - 1 - blockIdx.x) * STEP, h = blockIdx.y, origin = blockIdx.z * at.sequence;
  const int64_t queries = at.sequence - begin, row = origin + begin;
  const bf16* const keys_at = a.qkv + origin * at.row + (a.heads + h / at.group) * at.dim;
  const bf16* const values_at = keys_at + at.kv_heads * at.dim;
  const bool units = in_whole_units(a.qkv, at.row, at.dim) && in_whole_units(a.dy, at.out_row, at.dim);

  int first[2];
  float lse[2], dot[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int64_t r = row_of(i), place = (row + r) * a.heads + h;
    first[i] = first_key(a.starts + row, r, queries, at.sequence);
    lse[i] = r < queries ? a.lse[place] * log2_e : float_of(0x7f800000u);
    dot[i] = r < queries ? dots[place] : 0.0f;
  }
  const auto [earliest, latest] = range_over_block(first[0], first[1], notes);
  const int64_t last = min(begin + STEP, at.sequence) - 1;

  auto fetch = [&](int64_t keys, int s) {
    k[s].copy_from(keys_at + keys * at.row, at.row, at.sequence - keys, (int)at.dim, units);
    v[s].copy_from(values_at + keys * at.row, at.row, at.sequence - keys, (int)at.dim, units);
  };
  q.copy_from(a.qkv + row * at.row + h * at.dim, at.row, queries, (int)at.dim, units);
  dy.copy_from(a.dy + row * at.out_row + h * at.dim, at.out_row, queries, (int)at.dim, units);
  int64_t keys = earliest / STEP * STEP;
  if (keys <= last) fetch(keys, 0);

  Sums<D> dq;
  dq.clear();
  for (int stage = 0; keys <= last; keys += STEP, stage ^= 1) {
    finish_copies();
    __syncthreads();
    if (keys + STEP <= last) fetch(keys + STEP, stage ^ 1);
    Sums<STEP> s, ds;
    fence_registers();
    multiply_rows(s, q, k[stage], false);
    commit_products();
    multiply_rows(ds, dy, v[stage], false);
    commit_products();
    wait_products<1>(s);
    probabilities_by_rows(s, lse, at.scale_log2);
    if (keys < latest || keys + STEP - 1 > begin) {
#pragma unroll
      for (int j = 0; j < s.count; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int key = (int)keys + col_of(j) + e % 2, query = (int)begin + row_of(e / 2);
          if (key < first[e / 2] || key > query) s.v[j][e] = 0;
        }
    }
    wait_products<0>(ds);
    slopes_by_rows(ds, s, dot);
    Fragments<STEP> left;
    round_sums(left, ds);
    fence_registers();
    multiply_columns(dq, left, k[stage], true);
    commit_products();
    wait_products<0>(dq);
  }
  write_sums(dq, a.dqkv + (origin + begin) * at.row + h * at.dim, at.row, queries, at.dim, a.accumulate,
             [&](int) { return at.scale; });
}
