// What ssd_bf16.cu and ssd_backward_bf16.cu share: the chunked form of ssd.ts (see ssd_chunk.h for its formulas) with BF16 activations, in chunks of 64 rows
// whatever the configured chunk. Products are m16n8k16 of single warps. Values computed in FP32 are rounded to BF16 once where they enter a product: L (C.B)
// and its like, factors times x and g, and states. Exponents are to base 2. Passes that both have:
//
//   decays   D, l = sum D A within the chunk, enter and leave, for every row and head
//   states   along each sequence, in registers: the state that enters each chunk; backward also, from the end, the gradient of what leaves it
//
// A factor of a row past the end of its sequence is 0, and so are elements of matrices past their ends.
#pragma once
#include "fragments_cuda.h"

static constexpr int CHUNK = 64, STATE_STAGES = 3;
// What is kept of each row and head, one array of 64 after the other: D, l, e^l where the row sees the token before the chunk, e^(l_Q - l) where the last
// row sees it (the formulas' enter and leave), and leave D.
enum Note { Delta, Sum, Enter, Leave, Added, Notes };
static constexpr int NOTES = Notes * CHUNK;

__device__ inline int lane_of() { return threadIdx.x % 32; }
__device__ inline int warp_of() { return threadIdx.x / 32; }
// The same, such that the compiler sees that a warp's branches by it do not diverge.
__device__ inline int uniform_warp() { return __shfl_sync(0xffffffffu, warp_of(), 0); }

// Within 2 units in the last place, in one instruction.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

struct Sizes {
  int64_t rows, sequence, channels, inner;
  // Chunks in a sequence and in all; columns of a head and a state rounded up so that rows in shared memory are whole.
  int chunks, all_chunks, groups, heads, per_group, head_dim, state, head_cols, state_cols;
  // Whether rows of activations can be copied 16 bytes at a time, and results stored four elements at a time.
  bool whole, fours;

  template <class Args> __device__ explicit Sizes(const Args& a) {
    rows = a.rows;
    sequence = a.sequence;
    channels = a.channels;
    inner = a.inner;
    chunks = ((int)sequence + CHUNK - 1) / CHUNK;
    all_chunks = (int)rows / (int)sequence * chunks;
    groups = a.groups;
    heads = (int)a.heads;
    per_group = heads / groups;
    head_dim = (int)a.inner / heads;
    state = a.state;
    head_cols = (head_dim + 15) / 16 * 16;
    state_cols = (state + 31) / 32 * 32;
    whole = (channels | head_dim | state) % 8 == 0 && (reinterpret_cast<uint64_t>(a.xbc) & 15) == 0;
    fours = (channels | head_dim | state) % 4 == 0;
  }
  __device__ int64_t state_size() const { return (int64_t)head_cols * state_cols; }
};

// The workspace; ssd.ts computes its size.
struct Work {
  // Of 64 rows for every chunk and head.
  float* notes;
  // H [head_cols, state_cols] entering every chunk, for every head. Backward also: dH' at its end, and [group] the transpose of K (ssd_backward_bf16.cu).
  bf16 *states, *dstates, *weights;
  // Backward: per chunk and head, sums of ddt, D da and g.x.
  double* sums;

  __device__ Work(const Sizes& s, void* workspace, bool backward) {
    const int64_t all_states = (int64_t)s.all_chunks * s.heads * s.state_size();
    notes = static_cast<float*>(workspace);
    states = reinterpret_cast<bf16*>(notes + (int64_t)s.all_chunks * s.heads * NOTES);
    dstates = states + all_states;
    weights = dstates + (backward ? all_states : 0);
    sums = reinterpret_cast<double*>(weights + (backward ? (int64_t)s.all_chunks * s.groups * CHUNK * CHUNK : 0));
  }
};

// Where a chunk lies: `length` rows from row `row`, at position `begin` of their sequence.
struct Chunk {
  int index, length;
  int64_t row, begin;
  // Whether any of its rows sees the token before it (if so, the first does), and whether a chunk follows.
  bool entered, left;

  template <class Args> __device__ Chunk(const Args& a, const Sizes& s, int index) : index(index) {
    begin = index % s.chunks * CHUNK;
    row = index / s.chunks * s.sequence + begin;
    length = (int)(s.sequence - begin < CHUNK ? s.sequence - begin : CHUNK);
    entered = a.starts[row] < begin;
    left = begin + length < s.sequence;
  }
};

// First row of its chunk that row r sees; one past the end sees none.
__device__ inline int first_seen(const int32_t* starts, const Chunk& chunk, int r) {
  if (r >= chunk.length) return 0x7fffffff;
  const int64_t start = starts[chunk.row + r] - chunk.begin;
  return start < 0 ? 0 : (int)start;
}

// A matrix in shared memory. Rows are 16 bytes longer than they need be, so that neither rows nor columns of 16 x 16 fall on few banks.
struct Matrix {
  bf16* data;
  int pitch;
  __device__ Matrix(void* memory, int cols) : data(static_cast<bf16*>(memory)), pitch(cols + 8) {}
  __device__ bf16* at(int r, int c) const { return data + r * pitch + c; }
  // Two elements of a row, the first in an even column.
  __device__ float2 pair(int r, int c) const {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(at(r, c));
    return make_float2(float_of(word << 16), float_of(word & 0xffff0000u));
  }
};
__host__ __device__ constexpr int matrix_bytes(int rows, int cols) { return rows * (cols + 8) * 2; }

// Operands of m16n8k16 (tile_cuda.h). A left one: 16 rows from `row`, 16 columns from `k`; of the transposed matrix in the second form. A right
// one: 16 rows from `k`, 16 columns from `n`, two of the instruction's.
__device__ inline void left_operand(uint32_t (&a)[4], const Matrix& m, int row, int k) {
  load_matrices<false>(a, m.at(row + lane_of() % 16, k + lane_of() / 16 * 8));
}
__device__ inline void left_transposed(uint32_t (&a)[4], const Matrix& m, int row, int k) {
  load_matrices<true>(a, m.at(k + lane_of() % 8 + lane_of() / 16 * 8, row + lane_of() / 8 % 2 * 8));
}
__device__ inline void right_operand(uint32_t (&b)[4], const Matrix& m, int k, int n) {
  load_matrices<true>(b, m.at(k + lane_of() % 16, n + lane_of() / 16 * 8));
}
__device__ inline void right_transposed(uint32_t (&b)[4], const Matrix& m, int k, int n) {
  load_matrices<false>(b, m.at(n + lane_of() % 8 + lane_of() / 16 * 8, k + lane_of() / 8 % 2 * 8));
}

// 16 rows and 16 columns of sums in a warp: v[j] is (r, c), (r, c + 1), (r + 8, c), (r + 8, c + 1), r = lane / 4, c = 8 j + 2 (lane % 4).
struct Square {
  float v[2][4];
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i / 4][i % 4] = 0;
  }
  __device__ void add_product(const uint32_t (&a)[4], const uint32_t (&b)[4]) {
#pragma unroll
    for (int j = 0; j < 2; j++) multiply_fragments(v[j], a, b[2 * j], b[2 * j + 1]);
  }
  // As a left operand, rounded to BF16.
  __device__ void round_to(uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = pack_bf16(v[i / 2][i % 2 * 2], v[i / 2][i % 2 * 2 + 1]);
  }
};
// Row of the chunk that v[.][2 i] is in; column of v[j][0] and v[j][2].
__device__ inline int row_of(int i) { return warp_of() * 16 + lane_of() / 4 + 8 * i; }
__device__ inline int column_of(int j) { return 8 * j + 2 * (lane_of() % 4); }

// A square to the leading rows and columns of a matrix in global memory, added to what is there if `accumulate`. All lanes; where it can, four elements at
// a time: a lane gives its neighbour one half of its two columns and takes the other, so that a row's 16 columns are written in whole sectors.
__device__ inline void write_square(const Square& x, bf16* to, int64_t stride, int rows, int cols, bool fours, bool accumulate) {
  const int lane = lane_of();
  const bool odd = lane & 1;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = lane / 4 + 8 * i;
    bf16* const out = to + r * stride;
    if (!fours) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int c = column_of(e / 2) + e % 2;
        if (r < rows && c < cols) store_rounded(out + c, accumulate ? load(out + c) + x.v[e / 2][2 * i + e % 2] : x.v[e / 2][2 * i + e % 2]);
      }
      continue;
    }
    float four[4];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float first = x.v[0][2 * i + e], second = x.v[1][2 * i + e], got = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
      four[e] = odd ? got : first;
      four[2 + e] = odd ? second : got;
    }
    const int c = odd ? 6 + 2 * (lane % 4) : 2 * (lane % 4);
    if (r >= rows || c >= cols) continue;
    uint2* const words = reinterpret_cast<uint2*>(out + c);
    if (accumulate) {
      const uint2 old = *words;
      four[0] += float_of(old.x << 16), four[1] += float_of(old.x & 0xffff0000u);
      four[2] += float_of(old.y << 16), four[3] += float_of(old.y & 0xffff0000u);
    }
    *words = make_uint2(pack_bf16(four[0], four[1]), pack_bf16(four[2], four[3]));
  }
}

__device__ inline void copy_sixteen(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `Left` of the groups that this thread committed are under way; a barrier must follow.
template <int Left> __device__ void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }

// How the threads of a block share out the units of 16 bytes of a matrix of `cols` columns: each keeps its column and goes down by `step` rows, a power of 2.
struct Units {
  int row, column, step;
  __device__ explicit Units(int cols) {
    const int units = cols / 8;
    row = (int)threadIdx.x / units;
    column = (int)threadIdx.x % units * 8;
    step = 1 << (31 - __clz((int)blockDim.x / units));
  }
  template <class Body> __device__ void each(int rows, const Body& body) const {
    if (row >= step) return;
    for (int r = row; r < rows; r += step) body(r, column);
  }
  // Starts copying the leading rows and columns of a matrix in global memory into `rows` rows, with zeros elsewhere.
  __device__ void copy(const Matrix& to, int rows, const bf16* from, int64_t stride, int valid_rows, int valid_cols, bool whole) const {
    if (row >= step) return;
    from += row * stride + column;
    bf16* out = to.at(row, column);
    if (!whole) {
#pragma unroll 1
      for (int r = row; r < rows; r += step) {
#pragma unroll 1
        for (int i = 0; i < 8; i++) out[i].bits = r < valid_rows && column + i < valid_cols ? from[i].bits : 0;
        from += step * stride;
        out += step * to.pitch;
      }
      return;
    }
    const int valid = column < valid_cols ? valid_rows : 0;
#pragma unroll 4
    for (int r = row; r < rows; r += step) {
      copy_sixteen(out, from, r < valid);
      from += step * stride;
      out += step * to.pitch;
    }
  }
};
// `count` arrays of notes from the first one.
__device__ inline void copy_notes(float* to, const float* from, int count) {
#pragma unroll 1
  for (int i = threadIdx.x; i < count * CHUNK / 4; i += blockDim.x) copy_sixteen(to + 4 * i, from + 4 * i, true);
}
__device__ inline const float* notes_of(const Work& work, const Sizes& s, int chunk, int head) {
  return work.notes + ((int64_t)chunk * s.heads + head) * NOTES;
}

// A warp for each chunk and head, two rows a lane. Blocks: chunk, four heads.
template <class Args> __device__ void compute_decays(const Args& a, void* workspace, bool backward) {
  const Sizes s(a);
  const int head = (int)blockIdx.y * 4 + warp_of(), lane = lane_of();
  if (head >= s.heads) return;
  const Chunk chunk(a, s, (int)blockIdx.x);
  const double rate = -expf(a.aLog[head]);
  const float bias = a.dtBias[head];
  float delta[2];
  double l[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    const float biased = r < chunk.length ? load(a.projection + (chunk.row + r) * a.width + a.offset + head) + bias : 0.0f;
    delta[i] = r >= chunk.length ? 0.0f : biased > 20.0f ? biased : log1pf(expf(biased));
    l[i] = (double)delta[i] * rate;
  }
  l[1] += l[0];
  double before = l[1];
  for (int distance = 1; distance < 32; distance *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, before, distance);
    if (lane >= distance) before += other;
  }
  const double total = __shfl_sync(0xffffffffu, before, 31);
  before -= l[1];
  const int seen_by_last = first_seen(a.starts, chunk, chunk.length - 1);
  float* const notes = Work(s, workspace, backward).notes + ((int64_t)chunk.index * s.heads + head) * NOTES;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    const double at = before + l[i];
    const bool valid = r < chunk.length;
    const float leave = valid && r >= seen_by_last ? expf((float)(total - at)) : 0.0f;
    notes[Delta * CHUNK + r] = delta[i];
    notes[Sum * CHUNK + r] = (float)(at * 1.4426950408889634);
    notes[Enter * CHUNK + r] = valid && a.starts[chunk.row + r] < chunk.begin ? expf((float)at) : 0.0f;
    notes[Leave * CHUNK + r] = leave;
    notes[Added * CHUNK + r] = leave * delta[i];
  }
}

// A left operand's elements, each times the factor of its column.
__device__ inline void scale_columns(uint32_t (&a)[4], float2 low, float2 high) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 factor = i < 2 ? low : high;
    a[i] = pack_bf16(float_of(a[i] << 16) * factor.x, float_of(a[i] & 0xffff0000u) * factor.y);
  }
}

// The states entering every chunk, or (`Reverse`) the gradients of those at its end: S = carry S + sum_j factor_j u_j v_j^T over its rows, u of a head and
// v of its group. Blocks: slab of `Slab` columns of the state and 64 rows of it, head, sequence; a warp has 16 rows.
template <bool Reverse, int Slab, class Args>
__device__ void pass_slab(const Args& a, const Sizes& s, const Work& work, const bf16* u, int64_t u_stride, int sequence) {
  extern __shared__ uint4 shared_memory[];
  const int slabs = s.state_cols / Slab, n = (int)blockIdx.x % slabs * Slab, p = (int)blockIdx.x / slabs * 64;
  const int head = blockIdx.y, cols = (int)blockDim.x / 2, lane = lane_of(), row = warp_of() * 16;
  const int u_bytes = matrix_bytes(CHUNK, cols), v_bytes = matrix_bytes(CHUNK, Slab), stage_bytes = u_bytes + v_bytes + (CHUNK + 4) * 4;
  const Units u_units(cols), v_units(Slab);
  const bf16* const v = a.xbc + a.inner + ((Reverse ? s.groups : 0) + head / s.per_group) * s.state + n;
  u += head * s.head_dim + p;
  bf16* out = (Reverse ? work.dstates : work.states) + head * s.state_size() + (int64_t)(p + row) * s.state_cols + n;

  const auto memory_of = [&](int i) { return reinterpret_cast<char*>(shared_memory) + i % STATE_STAGES * stage_bytes; };
  const auto number_of = [&](int i) { return Reverse ? s.chunks - 1 - i : i; };
  const auto length_of = [&](int number) { return min(CHUNK, (int)s.sequence - number * CHUNK); };
  const auto fill = [&](int i) {
    if (i < s.chunks - 1) {
      const int number = number_of(i), length = length_of(number);
      const int64_t first = sequence * s.sequence + number * CHUNK;
      char* const memory = memory_of(i);
      u_units.copy(Matrix(memory, cols), CHUNK, u + first * u_stride, u_stride, length, s.head_dim - p, s.whole);
      v_units.copy(Matrix(memory + u_bytes, Slab), CHUNK, v + first * s.channels, s.channels, length, s.state - n, s.whole);
      const float* const notes = notes_of(work, s, sequence * s.chunks + number, head);
      float* const factors = reinterpret_cast<float*>(memory + u_bytes + v_bytes);
      copy_notes(factors, notes + (Reverse ? Enter : Added) * CHUNK, 1);
      if (threadIdx.x == 0) copy_sixteen(factors + CHUNK, notes + Enter * CHUNK + (length - 1) / 4 * 4, true);
    }
    commit_copies();
  };

  Square sums[Slab / 16];
#pragma unroll
  for (Square& sum : sums) sum.clear();
  for (int i = 1 - STATE_STAGES; i < s.chunks; i++) {
    wait_copies<STATE_STAGES - 2>();
    __syncthreads();
    fill(i + STATE_STAGES - 1);
    if (i < 0) continue;
    const int number = number_of(i);
    bf16* const to = out + (int64_t)(sequence * s.chunks + number) * s.heads * s.state_size();
    if (p + row < s.head_cols)
#pragma unroll
      for (int j = 0; j < Slab / 16; j++) write_square(sums[j], to + 16 * j, s.state_cols, 16, 16, true, false);
    if (i == s.chunks - 1) break;

    char* const memory = memory_of(i);
    const Matrix left(memory, cols), right(memory + u_bytes, Slab);
    const float* const factors = reinterpret_cast<const float*>(memory + u_bytes + v_bytes);
    const float carry = factors[CHUNK + (length_of(number) - 1) % 4];
#pragma unroll
    for (Square& sum : sums)
#pragma unroll
      for (int e = 0; e < 8; e++) sum.v[e / 4][e % 4] *= carry;
#pragma unroll
    for (int k = 0; k < CHUNK; k += 16) {
      const float2* const factor = reinterpret_cast<const float2*>(factors + k + 2 * (lane % 4));
      uint32_t x[4], y[4];
      left_transposed(x, left, row, k);
      scale_columns(x, factor[0], factor[4]);
#pragma unroll
      for (int j = 0; j < Slab / 16; j++) {
        right_operand(y, right, k, 16 * j);
        sums[j].add_product(x, y);
      }
    }
  }
}
template <bool Reverse, class Args>
__device__ void pass_states(const Args& a, const Sizes& s, const Work& work, const bf16* u, int64_t u_stride, int sequence) {
  if (s.state_cols % 64 == 0) pass_slab<Reverse, 64>(a, s, work, u, u_stride, sequence);
  else pass_slab<Reverse, 32>(a, s, work, u, u_stride, sequence);
}
