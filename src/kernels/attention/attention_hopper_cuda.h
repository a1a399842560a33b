// The forward pass of attention.ts with BF16 activations on Hopper. A block stays on its multiprocessor and takes a list of tiles: 64 queries for each of
// two warpgroups, which read the same keys and values, 128 at a time. Another warpgroup only copies: queries and keys in its first half, values in
// its second.
//
// A warpgroup starts the next block's q k^T, then this block's p v, and computes the next exponentials while the latter runs; the other warpgroup has
// its turn to start products meanwhile. Blocks of keys go from the query's own down, so that the first has a visible key for every query. Sums of
// exponentials and the output are relative to 2^m, where m follows the largest exponent only when that is 2^8 away.
#pragma once
#include "attention_bf16_cuda.h"
#include "pipeline_cuda.h"

#ifdef HALFBYTE_WGMMA

// The n-th of the tiles that this block takes: `rank` counts the tiles of a head from the longest. The longest tiles of all heads go first, and blocks take
// them in alternating order, so that each has about as much to do.
struct TilePlace {
  int head, rank;
  __device__ bool find(int n, int heads, int tiles) {
    const int place = n * gridDim.x + (n % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    head = place % heads;
    rank = place / heads;
    return rank < tiles;
  }
};

// A tile of queries of a head, and the blocks of keys that they see; after the last tile of a block of threads h is -1. `latest` is the largest first key.
struct QueryTile {
  int h, begin, first_block, last_block, origin, latest;

  // For a warp; `first` are what its queries see first, for the tile's and those past the end of the sequence.
  template <int Queries, class Args> __device__ void find(const Args& a, int n, int keys, int (&first)[Queries / 32]) {
    const int sequence = a.sequence, heads = (int)a.heads, tiles = (sequence + Queries - 1) / Queries;
    TilePlace place;
    if (!place.find(n, (int)a.rows / sequence * heads, tiles)) {
      h = -1;
      return;
    }
    h = place.head % heads;
    origin = place.head / heads * sequence;
    begin = (tiles - 1 - place.rank) * Queries;
    const int end = min(begin + Queries, sequence);
    int least = 0x7fffffff, most = 0;
#pragma unroll
    for (int i = 0; i < Queries / 32; i++) {
      const int r = begin + 32 * i + lane_of();
      first[i] = r < end ? max(a.starts[origin + r], 0) : 0;
      if (r < end) least = min(least, first[i]);
      most = max(most, first[i]);
    }
    latest = __reduce_max_sync(0xffffffffu, most);
    first_block = __reduce_min_sync(0xffffffffu, least) / keys;
    last_block = (end - 1) / keys;
  }
};

// What the warps that copy tell the others of a tile.
template <int Queries> struct TileNotes {
  QueryTile tile;
  int32_t first[Queries], unused[2];

  // By warps of which the first is the block's first.
  __device__ void put(const QueryTile& found, const int (&first_keys)[Queries / 32]) {
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int i = 0; i < Queries / 32; i++) first[32 * i + threadIdx.x] = first_keys[i];
    if (threadIdx.x == 0) tile = found;
  }
};

template <int D> struct ForwardMemory {
  static constexpr int queries = 128, keys = 128;
  using Queries = Panels<queries, D>;
  using Keys = Panels<keys, D>;
  using QueryQueue = Queue<Queries, 2>;
  using KeyQueue = Queue<Keys, 2>;
  using Notes = TileNotes<queries>;
  static constexpr int notes_at = QueryQueue::bytes + 2 * KeyQueue::bytes, barriers_at = notes_at + 2 * (int)sizeof(Notes);
  static constexpr int bytes = barriers_at + QueryQueue::barrier_bytes + 2 * KeyQueue::barrier_bytes;
};

template <int D> __device__ void attend_hopper(const attention_args<bf16>& a) {
  using Memory = ForwardMemory<D>;
  using Notes = typename Memory::Notes;
  constexpr int keys = Memory::keys, half = WARPGROUP / 2;
  unsigned char* const memory = block_memory();
  const uint32_t barriers = (uint32_t)__cvta_generic_to_shared(memory + Memory::barriers_at);
  const typename Memory::QueryQueue q(memory, barriers);
  const typename Memory::KeyQueue k(memory + q.bytes, barriers + q.barrier_bytes), v(memory + q.bytes + k.bytes, barriers + q.barrier_bytes + k.barrier_bytes);
  Notes* const notes = reinterpret_cast<Notes*>(memory + Memory::notes_at);
  if (threadIdx.x == 0) {
    q.init(half, 8);
    k.init(half, 8);
    v.init(half, 8);
  }
  __syncthreads();

  const int sequence = a.sequence, dim = (int)a.dim, heads = (int)a.heads;
  uint32_t block = 0;
  if (threadIdx.x < WARPGROUP) {
    lower_registers<56>();
    const int kv_heads = ((int)a.columns - heads) / 2, row = (int)a.columns * dim;
    const bool values = threadIdx.x >= half;
    typename Memory::KeyQueue to = k;
    if (values) to = v;
    Copies copies;
    for (int n = 0;; n++) {
      QueryTile tile;
      int first[Memory::queries / 32];
      tile.template find<Memory::queries>(a, n, keys, first);
      if (!values) {
        copies.wait_empty(q, n);
        notes[n % 2].put(tile, first);
      }
      if (tile.h < 0) {
        copies.finish();
        if (!values) q.full(n).arrive();
        return;
      }
      if (!values) {
        q.at(n).template copy_units_from<half>(a.qkv + (int64_t)(tile.origin + tile.begin) * row + tile.h * dim, row, sequence - tile.begin, dim);
        copies.commit(q.full(n));
      }
      const bf16* const from = a.qkv + (int64_t)tile.origin * row + (heads + (values ? kv_heads : 0) + tile.h / (heads / kv_heads)) * dim;
      for (int b = tile.last_block; b >= tile.first_block; b--, block++) {
        copies.wait_empty(to, block);
        to.at(block).template copy_units_from<half>(from + (int64_t)b * keys * row, row, sequence - b * keys, dim);
        copies.commit(to.full(block));
      }
    }
  }

  raise_registers<224>();
  const int group = threadIdx.x / WARPGROUP - 1;
  const Heads at(a);
  if (group == 1) give_turn(1);
  for (int n = 0;; n++) {
    q.wait_full(n);
    const Notes& known = notes[n % 2];
    const QueryTile tile = known.tile;
    if (tile.h < 0) return;
    const int begin = tile.begin + 64 * group;
    typename Memory::Queries queries = q.at(n);
    queries.base += group * 64 * 128;

    Sums<D> o;
    Sums<keys> s;
    Fragments<keys> p;
    float m[2], l[2], shrink[2];
    o.clear();
    m[0] = m[1] = float_of(0xff800000u);
    l[0] = l[1] = 0;
    bool moved;

    // s becomes exponentials of block b.
    auto exponentials = [&](int b) {
      if (b * keys < tile.latest || b * keys + keys - 1 > begin) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int lowest = known.first[64 * group + row_of(i)] - b * keys - col_of(0), highest = begin + row_of(i) - b * keys - col_of(0);
#pragma unroll
          for (int j = 0; j < s.count; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
              if (8 * j + e < lowest || 8 * j + e > highest) s.v[j][2 * i + e] = float_of(0xff800000u);
        }
      }
      float raised[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        raised[i] = fmaxf(s.v[0][2 * i], s.v[0][2 * i + 1]);
#pragma unroll
        for (int j = 1; j < s.count; j++) raised[i] = fmaxf(raised[i], fmaxf(s.v[j][2 * i], s.v[j][2 * i + 1]));
        raised[i] = largest_of_lanes(raised[i]) * at.scale_log2;
      }
      moved = __any_sync(0xffffffffu, raised[0] > m[0] + 8 || raised[1] > m[1] + 8);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float to = raised[i] > m[i] + 8 ? raised[i] : m[i];
        shrink[i] = power_of_2(m[i] - to);
        m[i] = to;
        float sums[2] = {l[i] * shrink[i], 0};
#pragma unroll
        for (int j = 0; j < s.count; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s.v[j][2 * i + e];
            x = power_of_2(fmaf(x, at.scale_log2, -to));
            sums[e] += x;
          }
        l[i] = sums[0] + sums[1];
      }
    };

    int b = tile.last_block;
    k.wait_full(block);
    take_turn(1 + group);
    fence_registers();
    multiply_rows(s, queries, k.at(block), false);
    commit_products();
    give_turn(2 - group);
    wait_products<0>(s);
    k.release(block);
    exponentials(b);
    round_sums(p, s);
    for (b--; b >= tile.first_block; b--) {
      k.wait_full(block + 1);
      v.wait_full(block);
      take_turn(1 + group);
      fence_registers();
      multiply_rows(s, queries, k.at(block + 1), false);
      commit_products();
      multiply_columns(o, p, v.at(block), true);
      commit_products();
      give_turn(2 - group);
      wait_products<1>(s);
      k.release(block + 1);
      exponentials(b);
      wait_products<0>(o);
      v.release(block);
      block++;
      if (moved)
#pragma unroll
        for (int j = 0; j < o.count; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) o.v[j][e] *= shrink[e / 2];
      round_sums(p, s);
    }
    q.release(n);
    v.wait_full(block);
    fence_registers();
    multiply_columns(o, p, v.at(block), true);
    commit_products();
    float inverse[2], sums[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      sums[i] = sum_of_lanes(l[i]);
      inverse[i] = 1.0f / sums[i];
    }
    wait_products<0>(o);
    v.release(block);
    block++;

    const int left = sequence - begin;
    const int64_t row = tile.origin + begin;
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (lane_of() % 4 == 0 && row_of(i) < left) a.lse[(row + row_of(i)) * heads + tile.h] = (m[i] + log2f(sums[i])) * ln_2;
    write_sums(o, a.y + row * at.out_row + tile.h * dim, at.out_row, left, dim, false, [&](int i) { return inverse[i]; });
  }
}

#else
// Nothing launches it there.
template <int D> __device__ void attend_hopper(const attention_args<bf16>&) {}
#endif
