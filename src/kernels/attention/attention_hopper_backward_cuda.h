// The backward pass of attention.ts with BF16 activations on Hopper, in two launches of blocks as those of the forward pass. In the first, two warpgroups
// have 64 keys each and read blocks of queries, products being transposed; in the second they have 64 queries each and read blocks of keys. Blocks are of
// 64 rows, of 128 where heads have at most 64 elements. The warpgroups take turns to start a block's first products.
//
// Gradients of probabilities are made from probabilities as rounded to BF16 in the first launch: FP32 ones would not fit into registers beside two sums.
// Left operands that stay the same for all blocks are read from shared memory: in registers, ptxas 13.0 overwrites them with others of the same size.
#pragma once
#include "attention_hopper_cuda.h"

static constexpr int BACKWARD_ROWS = 2 * 64;

#ifdef HALFBYTE_WGMMA

// What is known of a block of queries: lse, D and first keys, 0 past the end of the sequence, where queries and their gradients are 0 too and add nothing;
// its first query, or -1 after the last block of a tile; the largest first key.
template <int Queries> struct QueryBlock {
  float lse[Queries], dot[Queries];
  int32_t first[Queries];
  int32_t begin, latest, unused[2];
};

// What round_sums made of v[j][e].
template <int N> __device__ float rounded_sum(const Fragments<N>& of, int j, int e) {
  const uint32_t pair = of.v[j / 2][j % 2 * 2 + e / 2];
  return float_of(e % 2 ? pair & 0xffff0000u : pair << 16);
}

template <int D, int Queries> struct KeyMemory {
  using Keys = Panels<BACKWARD_ROWS, D>;
  using Block = Panels<Queries, D>;
  using Notes = QueryBlock<Queries>;
  static constexpr int stages = 3, barrier_bytes = 2 * Queue<Keys, 1>::barrier_bytes + 2 * Queue<Block, stages>::barrier_bytes;
  static constexpr int notes_at = 2 * Keys::bytes + 2 * stages * Block::bytes, barriers_at = notes_at + stages * (int)sizeof(Notes);
  static constexpr int bytes = barriers_at + barrier_bytes;
};

// A tile of keys of a head: its first key, and where its sequence begins.
struct KeyTile {
  int kv, keys, origin;
  __device__ bool find(const attention_backward_args<bf16>& a, int n, int kv_heads) {
    TilePlace place;
    const int sequence = a.sequence;
    if (!place.find(n, (int)a.rows / sequence * kv_heads, (sequence + BACKWARD_ROWS - 1) / BACKWARD_ROWS)) return false;
    kv = place.head % kv_heads;
    origin = place.head / kv_heads * sequence;
    keys = place.rank * BACKWARD_ROWS;
    return true;
  }
};

template <int D, int Queries = (D > 64 ? 64 : 128)> __device__ void attend_keys_hopper(const attention_backward_args<bf16>& a, const float* dots) {
  using Memory = KeyMemory<D, Queries>;
  using Notes = typename Memory::Notes;
  using Keys = typename Memory::Keys;
  using Block = typename Memory::Block;
  constexpr int half = WARPGROUP / 2, stages = Memory::stages;
  unsigned char* const memory = block_memory();
  const uint32_t barriers = (uint32_t)__cvta_generic_to_shared(memory + Memory::barriers_at);
  const Queue<Keys, 1> k(memory, barriers), v(memory + Keys::bytes, barriers + k.barrier_bytes);
  const Queue<Block, stages> q(memory + 2 * Keys::bytes, barriers + 2 * k.barrier_bytes), dy(memory + 2 * Keys::bytes + q.bytes, barriers + 2 * k.barrier_bytes + q.barrier_bytes);
  Notes* const notes = reinterpret_cast<Notes*>(memory + Memory::notes_at);
  if (threadIdx.x == 0) {
    k.init(half, 8);
    v.init(half, 8);
    q.init(half, 8);
    dy.init(half, 8);
  }
  __syncthreads();

  const int sequence = a.sequence, dim = (int)a.dim, heads = (int)a.heads, kv_heads = ((int)a.columns - heads) / 2, row = (int)a.columns * dim;
  KeyTile tile;
  uint32_t block = 0;
  if (threadIdx.x < WARPGROUP) {
    lower_registers<56>();
    // Of keys and queries, or of values and gradients.
    auto copy = [&](const Queue<Keys, 1>& own, const Queue<Block, stages>& passing, const bf16* from, int stride, int first_head, bool second) {
      Copies copies;
      for (int n = 0; tile.find(a, n, kv_heads); n++) {
        copies.wait_empty(own, n);
        own.at(n).template copy_units_from<half>(a.qkv + (int64_t)(tile.origin + tile.keys) * row + (first_head + tile.kv) * dim, row, sequence - tile.keys, dim);
        copies.commit(own.full(n));
        const int group = heads / kv_heads;
        for (int h = tile.kv * group; h < (tile.kv + 1) * group; h++)
          for (int begin = tile.keys; begin < sequence; begin += Queries) {
            const int first_row = tile.origin + begin, left = sequence - begin;
            int first[Queries / 32], least = sequence, latest = 0;
#pragma unroll
            for (int i = 0; i < Queries / 32; i++) {
              const int r = 32 * i + lane_of();
              first[i] = r < left ? max(a.starts[first_row + r], 0) : sequence;
              least = min(least, first[i]);
              latest = max(latest, first[i]);
            }
            if (!__any_sync(0xffffffffu, least < tile.keys + BACKWARD_ROWS)) {
              copies.finish();
              continue;
            }
            copies.wait_empty(passing, block);
            passing.at(block).template copy_units_from<half>(from + (int64_t)first_row * stride + h * dim, stride, left, dim);
            if (!second) {
              Notes& rows = notes[block % stages];
              latest = __reduce_max_sync(0xffffffffu, latest);
              if (threadIdx.x < 32) {
#pragma unroll
                for (int i = 0; i < Queries / 32; i++) rows.first[32 * i + threadIdx.x] = first[i];
                if (threadIdx.x == 0) rows.begin = begin, rows.latest = latest;
              }
#pragma unroll
              for (int i = threadIdx.x; i < Queries; i += half) {
                const int64_t place = (int64_t)(first_row + i) * heads + h;
                copy_word(rows.lse + i, a.lse + place, i < left);
                copy_word(rows.dot + i, dots + place, i < left);
              }
            }
            copies.commit(passing.full(block++));
          }
        if (second) continue;
        copies.wait_empty(passing, block);
        if (threadIdx.x == 0) notes[block % stages].begin = -1;
        copies.commit(passing.full(block++));
      }
      copies.finish();
    };
    if (threadIdx.x < half) copy(k, q, a.qkv, row, heads, false);
    else copy(v, dy, a.dy, heads * dim, heads + kv_heads, true);
    return;
  }

  raise_registers<224>();
  const int group = threadIdx.x / WARPGROUP - 1;
  const Heads at(a);
  if (group == 1) give_turn(1);
  // Blocks of gradients have no end marks.
  uint32_t gradients = 0;
  for (int n = 0; tile.find(a, n, kv_heads); n++) {
    const int keys = tile.keys + 64 * group;
    Keys own_keys = k.at(n), own_values = v.at(n);
    own_keys.base += group * 64 * 128;
    own_values.base += group * 64 * 128;
    // The first query of the next block with one that sees a key of this warpgroup's, or -1.
    auto next_block = [&] {
      for (;; block++, gradients++) {
        q.wait_full(block);
        const int begin = notes[block % stages].begin;
        if (begin < 0 || begin + Queries > keys) return begin;
        dy.wait_full(gradients);
        take_turn(1 + group);
        give_turn(2 - group);
        q.release(block);
        dy.release(gradients);
      }
    };

    Sums<D> dk, dv;
    Sums<Queries> s, ds;
    Fragments<Queries> left, right;
    uint32_t last = 0, last_gradients = 0;
    dk.clear();
    dv.clear();
    k.wait_full(n);
    v.wait_full(n);
    bool started = false;
    for (;;) {
      const int begin = next_block();
      if (begin < 0) break;
      dy.wait_full(gradients);
      const Notes& rows = notes[block % stages];
      take_turn(1 + group);
      fence_registers();
      multiply_rows(s, own_keys, q.at(block), false);
      commit_products();
      multiply_rows(ds, own_values, dy.at(gradients), false);
      commit_products();
      give_turn(2 - group);
      // The last block's sums are done too.
      wait_products<1>(s);
      if (started) {
        q.release(last);
        dy.release(last_gradients);
      }
      probabilities_by_columns(s, rows.lse, at.scale_log2);
      if (rows.latest > keys || begin < keys + 63) hide_by_columns(s, rows.first, begin, keys);
      round_sums(left, s);
      fence_registers();
      multiply_columns(dv, left, dy.at(gradients), true);
      commit_products();
      wait_products<1>(ds);
#pragma unroll
      for (int j = 0; j < s.count; j++) {
        const float2 dot = *reinterpret_cast<const float2*>(rows.dot + col_of(j));
#pragma unroll
        for (int e = 0; e < 4; e++) ds.v[j][e] = rounded_sum(left, j, e) * (ds.v[j][e] - (e % 2 ? dot.y : dot.x));
      }
      round_sums(right, ds);
      fence_registers();
      multiply_columns(dk, right, q.at(block), true);
      commit_products();
      wait_products<0>(dk);
      last = block++;
      last_gradients = gradients++;
      started = true;
    }
    wait_products<0>(dk);
    wait_products<0>(dv);
    if (started) {
      q.release(last);
      dy.release(last_gradients);
    }
    __syncwarp();
    q.release(block++);
    k.release(n);
    v.release(n);
    bf16* const to = a.dqkv + (int64_t)(tile.origin + keys) * row + (heads + tile.kv) * dim;
    write_sums(dk, to, row, sequence - keys, dim, a.accumulate, [&](int) { return at.scale; });
    write_sums(dv, to + kv_heads * dim, row, sequence - keys, dim, a.accumulate, [](int) { return 1.0f; });
  }
}

// Of a tile of queries, lse and D too.
struct GradientNotes : TileNotes<BACKWARD_ROWS> {
  float lse[BACKWARD_ROWS], dot[BACKWARD_ROWS];
};

template <int D, int Keys> struct QueryMemory {
  using Queries = Panels<BACKWARD_ROWS, D>;
  using QueryQueue = Queue<Queries, 2>;
  using KeyQueue = Queue<Panels<Keys, D>, 3>;
  using ValueQueue = Queue<Panels<Keys, D>, 2>;
  static constexpr int notes_at = 2 * QueryQueue::bytes + KeyQueue::bytes + ValueQueue::bytes, barriers_at = notes_at + 2 * (int)sizeof(GradientNotes);
  static constexpr int bytes = barriers_at + 2 * QueryQueue::barrier_bytes + KeyQueue::barrier_bytes + ValueQueue::barrier_bytes;
};

// Copies tiles of queries and blocks of keys, with lse, or if `second` tiles of gradients and blocks of values, with D.
template <int keys, class Own, class Passing>
__device__ __forceinline__ void copy_queries(const attention_backward_args<bf16>& a, const Own& own, const Passing& passing, const bf16* own_from,
                                             int own_stride, int first_head, const float* words, GradientNotes* notes, bool second) {
  constexpr int half = WARPGROUP / 2;
  const int sequence = a.sequence, dim = (int)a.dim, heads = (int)a.heads, kv_heads = ((int)a.columns - heads) / 2, row = (int)a.columns * dim;
  uint32_t block = 0;
  Copies copies;
  for (int n = 0;; n++) {
    copies.wait_empty(own, n);
    QueryTile tile;
    int first[BACKWARD_ROWS / 32];
    tile.template find<BACKWARD_ROWS>(a, n, keys, first);
    if (!second) notes[n % 2].put(tile, first);
    if (tile.h < 0) {
      copies.finish();
      if (!second) own.full(n).arrive();
      return;
    }
    const int left = sequence - tile.begin, from_row = tile.origin + tile.begin;
    own.at(n).template copy_units_from<half>(own_from + (int64_t)from_row * own_stride + tile.h * dim, own_stride, left, dim);
    float* const to = second ? notes[n % 2].dot : notes[n % 2].lse;
    const float* const words_from = words + (int64_t)from_row * heads + tile.h;
    for (int i = threadIdx.x % half; i < BACKWARD_ROWS; i += half) copy_word(to + i, words_from + (int64_t)i * heads, i < left);
    copies.commit(own.full(n));
    const bf16* const from = a.qkv + (int64_t)tile.origin * row + (first_head + tile.h / (heads / kv_heads)) * dim;
    for (int b = tile.last_block; b >= tile.first_block; b--, block++) {
      copies.wait_empty(passing, block);
      passing.at(block).template copy_units_from<half>(from + (int64_t)b * keys * row, row, sequence - b * keys, dim);
      copies.commit(passing.full(block));
    }
  }
}

template <int D, int keys = (D > 64 ? 64 : 128)> __device__ void attend_queries_hopper(const attention_backward_args<bf16>& a, const float* dots) {
  using Memory = QueryMemory<D, keys>;
  constexpr int half = WARPGROUP / 2;
  unsigned char* const memory = block_memory();
  const uint32_t barriers = (uint32_t)__cvta_generic_to_shared(memory + Memory::barriers_at);
  const typename Memory::QueryQueue q(memory, barriers), dy(memory + q.bytes, barriers + q.barrier_bytes);
  const typename Memory::KeyQueue k(memory + 2 * q.bytes, barriers + 2 * q.barrier_bytes);
  const typename Memory::ValueQueue v(memory + 2 * q.bytes + k.bytes, barriers + 2 * q.barrier_bytes + k.barrier_bytes);
  GradientNotes* const notes = reinterpret_cast<GradientNotes*>(memory + Memory::notes_at);
  if (threadIdx.x == 0) {
    q.init(half, 8);
    dy.init(half, 8);
    k.init(half, 8);
    v.init(half, 8);
  }
  __syncthreads();

  const int sequence = a.sequence, dim = (int)a.dim, heads = (int)a.heads, kv_heads = ((int)a.columns - heads) / 2, row = (int)a.columns * dim;
  uint32_t block = 0;
  if (threadIdx.x < WARPGROUP) {
    lower_registers<56>();
    if (threadIdx.x < half) copy_queries<keys>(a, q, k, a.qkv, row, heads, a.lse, notes, false);
    else copy_queries<keys>(a, dy, v, a.dy, heads * dim, heads + kv_heads, dots, notes, true);
    return;
  }

  raise_registers<224>();
  const int group = threadIdx.x / WARPGROUP - 1;
  const Heads at(a);
  if (group == 1) give_turn(1);
  for (int n = 0;; n++) {
    q.wait_full(n);
    const GradientNotes& known = notes[n % 2];
    const QueryTile tile = known.tile;
    if (tile.h < 0) return;
    const int begin = tile.begin + 64 * group;
    typename Memory::Queries queries = q.at(n), gradients = dy.at(n);
    queries.base += group * 64 * 128;
    gradients.base += group * 64 * 128;
    dy.wait_full(n);
    float lse[2], dot[2];
#pragma unroll
    for (int i = 0; i < 2; i++) lse[i] = known.lse[64 * group + row_of(i)] * log2_e, dot[i] = known.dot[64 * group + row_of(i)];

    Sums<D> dq;
    Sums<keys> s, ds;
    Fragments<keys> slopes;
    dq.clear();
    int b = tile.last_block;
    for (const int own = min(b, (begin + 63) / keys); b > own; b--, block++) {
      k.wait_full(block);
      k.release(block);
      v.wait_full(block);
      v.release(block);
      take_turn(1 + group);
      give_turn(2 - group);
    }
    for (bool started = false; b >= tile.first_block; b--, block++, started = true) {
      k.wait_full(block);
      v.wait_full(block);
      take_turn(1 + group);
      fence_registers();
      multiply_rows(s, queries, k.at(block), false);
      commit_products();
      multiply_rows(ds, gradients, v.at(block), false);
      commit_products();
      give_turn(2 - group);
      // The last block's sums are done too.
      wait_products<1>(s);
      if (started) k.release(block - 1);
      probabilities_by_rows(s, lse, at.scale_log2);
      if (b * keys < tile.latest || b * keys + keys - 1 > begin) {
#pragma unroll
        for (int j = 0; j < s.count; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int key = b * keys + col_of(j) + e % 2, query = begin + row_of(e / 2);
            if (key < known.first[64 * group + row_of(e / 2)] || key > query) s.v[j][e] = 0;
          }
      }
      wait_products<0>(ds);
      v.release(block);
      slopes_by_rows(ds, s, dot);
      round_sums(slopes, ds);
      fence_registers();
      multiply_columns(dq, slopes, k.at(block), true);
      commit_products();
    }
    q.release(n);
    dy.release(n);
    wait_products<0>(dq);
    k.release(block - 1);
    write_sums(dq, a.dqkv + (int64_t)(tile.origin + begin) * row + tile.h * dim, row, sequence - begin, dim, a.accumulate, [&](int) { return at.scale; });
  }
}

#else
template <int D> __device__ void attend_keys_hopper(const attention_backward_args<bf16>&, const float*) {}
template <int D> __device__ void attend_queries_hopper(const attention_backward_args<bf16>&, const float*) {}
#endif
