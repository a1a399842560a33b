// Backward of ssd.ts with BF16 activations; ssd_backward.cpp has its formulas. After the passes of ssd_bf16_cuda.h, H entering each chunk and dH' at its end:
//
//   inputs      for the heads of a group one after the other: dx, ddt, and K_ij = sum over the heads of L_ij D_j g_i.x_j
//   projections dB and dC from K and the states
//   parameters  adds up the chunks' sums, chunks in order
//
// da_t is the sum of M_ij = L_ij (C_i.B_j) D_j g_i.x_j over all i >= t > j of the sequence. What of it lies within a chunk comes from sums over rows and
// columns of the triangle, large terms that nearly cancel: both are sums of the very same FP32 values, and their differences are added in double precision.
// With i after the chunk or j before it, it comes from products with states, which do not cancel.
#include "ssd_bf16_cuda.h"
#include "sums_cuda.h"

// Elements of a state up to which a block has shared memory for two heads.
static constexpr int MOST_FOR_TWO_STAGES = 3072;

using Args = ssd_backward_args<bf16>;

__device__ void ssd_backward_chunk_decays(const Args& a, void* workspace) { compute_decays(a, workspace, true); }
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_decays, 128)

// Both directions: the second half of the blocks goes from the end.
__device__ void ssd_backward_chunk_states(const Args& a, void* workspace) {
  const Sizes s(a);
  const Work work(s, workspace, true);
  const int sequences = (int)s.rows / (int)s.sequence, z = blockIdx.z;
  if (z < sequences) pass_states<false>(a, s, work, a.xbc, s.channels, z);
  else pass_states<true>(a, s, work, a.dy, s.inner, z - sequences);
}
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_states, 128)

// Sum over the eight lanes that have the same columns of a square, of four values: those of columns (0, 0), (0, 1), (1, 0), (1, 1) as
// column_of(j) + e; lane gets the one of index lane / 16 * 2 + lane / 8 % 2.
__device__ inline float sum_of_columns(float (&v)[4]) {
  const int lane = lane_of();
  const bool upper = lane & 16, odd = lane & 8;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float sent = upper ? v[i] : v[i + 2], kept = upper ? v[i + 2] : v[i];
    v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, 16);
  }
  const float sent = odd ? v[0] : v[1], kept = odd ? v[1] : v[0];
  const float sum = kept + __shfl_xor_sync(0xffffffffu, sent, 8);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 4);
}

// What the warps of a block find out about 64 rows and one head. Of the triangle below the diagonal: sums by row, of each column of squares; by column without
// D_j, of each row of squares; then the diagonal, so too. Of each 16 columns of the head: enter_i g_i.(H C_i) and leave_j x_j.(dH' B_j). Then parts of
// <H, dH'> and of the sum of g.x.
struct Found {
  float* rows;
  static constexpr int helpers = 8, rest = 16;
  __device__ static int bytes(int slabs) { return ((9 + 2 * slabs) * CHUNK + rest) * 4; }
  __device__ explicit Found(char* memory) : rows(reinterpret_cast<float*>(memory)) {}
  __device__ float* columns() const { return rows + 4 * CHUNK; }
  __device__ float* diagonal() const { return rows + 8 * CHUNK; }
  __device__ float* states() const { return rows + 9 * CHUNK; }
  __device__ float* skipped() const { return states() + helpers; }
  __device__ float* entering(int slab) const { return states() + rest + 2 * slab * CHUNK; }
  __device__ float* leaving(int slab) const { return entering(slab) + CHUNK; }
};

// What the last step of a head takes over before the next one begins: of the lane's two rows D, sums over row and column, and the diagonal; what the chunk's
// end makes of the state that enters it, <H, dH'> and the sum of g.x.
struct Kept {
  float delta[2], row[2], column[2], diagonal[2], carry, passing, skipped;

  __device__ void take(const Found& found, const float* notes, int last, int helpers) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int r = 2 * lane_of() + i;
      delta[i] = notes[r];
      row[i] = column[i] = 0;
      for (int j = 0; j <= r / 16; j++) row[i] += found.rows[j * CHUNK + r];
      for (int j = r / 16; j < 4; j++) column[i] += found.columns()[j * CHUNK + r];
      diagonal[i] = found.diagonal()[r];
    }
    carry = notes[Enter * CHUNK + last];
    passing = 0;
    for (int i = 0; i < helpers; i++) passing += found.states()[i];
    const float* const parts = found.skipped();
    skipped = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
};

// da, ddt and a chunk's sums for the parameters, by one warp; two rows a lane.
__device__ inline void finish_head(const Args& a, const Sizes& s, const Work& work, const Chunk& chunk, int head, const Kept& kept, const Found& found) {
  const int lane = lane_of();
  const float rate = -expf(a.aLog[head]), bias = a.dtBias[head];
  // What row k adds to da of the rows up to it, and what it takes from those after.
  double gained = 0, lost[2], direct[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    float entering = 0, leaving = 0;
    for (int p = 0; p < s.head_cols / 16; p++) entering += found.entering(p)[r], leaving += found.leaving(p)[r];
    const double own = ((double)kept.row[i] - (double)kept.delta[i] * kept.column[i]) + entering;
    gained += own;
    lost[i] = own - (double)kept.delta[i] * leaving;
    direct[i] = (double)kept.column[i] + leaving + kept.diagonal[i];
  }
  double before = lost[0] + lost[1];
  for (int distance = 1; distance < 32; distance *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, before, distance);
    if (lane >= distance) before += other;
  }
  double da = (double)kept.carry * kept.passing + sum_of_warp(gained) - (before - lost[0] - lost[1]), bias_sum = 0, rate_sum = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    if (r < chunk.length) {
      const int64_t at = (chunk.row + r) * a.width + a.offset + head;
      const float ddt = (float)(direct[i] + (double)rate * da) / (1.0f + expf(-(load(a.projection + at) + bias)));
      store(a.dprojection + at, ddt);
      bias_sum += ddt;
      rate_sum += (double)kept.delta[i] * da;
    }
    da -= lost[i];
  }
  bias_sum = sum_of_warp(bias_sum);
  rate_sum = sum_of_warp(rate_sum);
  if (lane != 0) return;
  double* const sums = work.sums + 3 * ((int64_t)chunk.index * s.heads + head);
  sums[0] = bias_sum;
  sums[1] = rate_sum;
  sums[2] = (double)kept.skipped;
}

// Blocks: chunk, group; at least 12 warps. Each head takes two steps. First, each of ten warps has a square of 16 rows j and 16 columns i of the triangle,
// i >= j; one warp finishes the head before, and the rest compute <H, dH'>. Then each warp has 16 rows and 16 columns of the head at a time. Where two stages
// fit, the next head's matrices arrive meanwhile.
__device__ void ssd_backward_chunk_inputs(const Args& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  constexpr int squares = 10, finisher = 10;
  char* const memory = reinterpret_cast<char*>(shared_memory);
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, (int)blockIdx.x);
  const int group = blockIdx.y, warp = uniform_warp(), warps = (int)blockDim.x / 32, lane = lane_of(), first_head = group * s.per_group;
  const int slabs = s.head_cols / 16, helpers = min(warps - squares - 1, Found::helpers);
  const int group_bytes = matrix_bytes(CHUNK, s.state_cols), rows_bytes = matrix_bytes(CHUNK, s.head_cols);
  const int states_bytes = matrix_bytes(s.head_cols, s.state_cols), stage_bytes = 2 * (rows_bytes + states_bytes) + 4 * CHUNK * 4;
  const int stages = s.state_size() > MOST_FOR_TWO_STAGES ? 1 : 2, decayed_bytes = matrix_bytes(16 * squares, 16);
  const Matrix b(memory, s.state_cols), c(memory + group_bytes, s.state_cols), decayed(memory + 2 * group_bytes, 16);
  const Found found(memory + 2 * group_bytes + decayed_bytes);
  const Units head_units(s.head_cols), state_units(s.state_cols);
  const bf16* const row = a.xbc + chunk.row * s.channels;
  const bool whole = s.whole && (reinterpret_cast<uint64_t>(a.dy) & 15) == 0;

  const auto stage_at = [&](int i) { return memory + 2 * group_bytes + decayed_bytes + Found::bytes(slabs) + i % stages * stage_bytes; };
  const auto fill = [&](int i) {
    if (i < s.per_group) {
      char* const stage = stage_at(i);
      const int head = first_head + i;
      const int64_t states_at = ((int64_t)chunk.index * s.heads + head) * s.state_size();
      head_units.copy(Matrix(stage, s.head_cols), CHUNK, row + head * s.head_dim, s.channels, chunk.length, s.head_dim, whole);
      head_units.copy(Matrix(stage + rows_bytes, s.head_cols), CHUNK, a.dy + chunk.row * s.inner + head * s.head_dim, s.inner, chunk.length,
                      s.head_dim, whole);
      char* const states = stage + 2 * rows_bytes;
      if (chunk.entered)
        state_units.copy(Matrix(states, s.state_cols), s.head_cols, work.states + states_at, s.state_cols, s.head_cols, s.state_cols, true);
      if (chunk.left)
        state_units.copy(Matrix(states + states_bytes, s.state_cols), s.head_cols, work.dstates + states_at, s.state_cols, s.head_cols,
                         s.state_cols, true);
      copy_notes(reinterpret_cast<float*>(states + 2 * states_bytes), notes_of(work, s, chunk.index, head), 4);
    }
    commit_copies();
  };
  state_units.copy(b, CHUNK, row + s.inner + group * s.state, s.channels, chunk.length, s.state, whole);
  state_units.copy(c, CHUNK, row + s.inner + (s.groups + group) * s.state, s.channels, chunk.length, s.state, whole);

  // The warp's square: its B_j.C_i, the sum over heads that becomes K, and the first row that each of the lane's columns sees.
  int i = warp, j = 0;
  for (; j < 3 && i >= 4 - j; j++) i -= 4 - j;
  i += j;
  const int j_row = 16 * j + lane / 4;
  Square scores, weights;
  scores.clear();
  weights.clear();
  int seen[4];
#pragma unroll
  for (int e = 0; e < 4; e++) seen[e] = warp < squares ? first_seen(a.starts, chunk, 16 * i + column_of(e / 2) + e % 2) : 0;
  Kept kept;

  for (int h = 1 - stages; h <= s.per_group; h++) {
    if (stages == 2) wait_copies<0>();
    __syncthreads();
    fill(h + stages - 1);
    if (h < 0) continue;
    if (warp == finisher && h > 0) finish_head(a, s, work, chunk, first_head + h - 1, kept, found);
    if (h == s.per_group) break;
    if (stages == 1) {
      wait_copies<0>();
      __syncthreads();
    }
    const int head = first_head + h;
    char* const stage = stage_at(h);
    const Matrix x(stage, s.head_cols), g(stage + rows_bytes, s.head_cols);
    const Matrix entering(stage + 2 * rows_bytes, s.state_cols), leaving(stage + 2 * rows_bytes + states_bytes, s.state_cols);
    const float* const notes = reinterpret_cast<const float*>(stage + 2 * (rows_bytes + states_bytes));
    uint32_t u[4], v[4];

    if (warp < squares) {
      if (h == 0)
#pragma unroll 1
        for (int k = 0; k < s.state_cols; k += 16) {
          left_operand(u, b, 16 * j, k);
          right_transposed(v, c, k, 16 * i);
          scores.add_product(u, v);
        }
      // L_ij (C_i.B_j), and of its products with x_j.g_i the sums over rows and columns of the triangle.
      Square dots, square;
      dots.clear();
#pragma unroll 1
      for (int k = 0; k < s.head_cols; k += 16) {
        left_operand(u, x, 16 * j, k);
        right_transposed(v, g, k, 16 * i);
        dots.add_product(u, v);
      }
      const float l[2] = {notes[Sum * CHUNK + j_row], notes[Sum * CHUNK + j_row + 8]}, delta[2] = {notes[j_row], notes[j_row + 8]};
      float columns[2] = {0, 0}, diagonal[2] = {0, 0}, row_parts[4] = {0, 0, 0, 0}, skipped = 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float2 at = *reinterpret_cast<const float2*>(notes + Sum * CHUNK + 16 * i + column_of(half));
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int r = j_row + e / 2 * 8, column = 16 * i + column_of(half) + e % 2;
          const float power = power_of_2((e % 2 ? at.y : at.x) - l[e / 2]);
          const float decay = r <= column && r >= seen[2 * half + e % 2] ? power : 0.0f;
          const float dot = dots.v[half][e], value = decay * scores.v[half][e], product = r == column ? 0.0f : value * dot;
          square.v[half][e] = value;
          weights.v[half][e] = fmaf(delta[e / 2], decay * dot, weights.v[half][e]);
          columns[e / 2] += product;
          row_parts[2 * half + e % 2] = fmaf(delta[e / 2], product, row_parts[2 * half + e % 2]);
          if (r == column) diagonal[e / 2] += value * dot, skipped += dot;
        }
      }
      square.round_to(u);
#pragma unroll
      for (int e = 0; e < 4; e++) *reinterpret_cast<uint32_t*>(decayed.at(16 * warp + lane / 4 + e % 2 * 8, column_of(e / 2))) = u[e];
      const float sum = sum_of_columns(row_parts);
      if (lane / 4 % 2 == 0) found.rows[j * CHUNK + 16 * i + column_of(lane / 16) + lane / 8 % 2] = sum;
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float column = sum_of_lanes(columns[e]);
        if (lane % 4 == 0) found.columns()[i * CHUNK + j_row + 8 * e] = column;
      }
      if (i == j) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float own = sum_of_lanes(diagonal[e]);
          if (lane % 4 == 0) found.diagonal()[j_row + 8 * e] = own;
        }
        skipped = sum_of_warp(skipped);
        if (lane == 0) found.skipped()[j] = skipped;
      }
    } else if (warp > finisher && warp - finisher - 1 < helpers) {
      const int helper = warp - finisher - 1, units = s.state_cols / 8;
      float product = 0;
      if (chunk.entered && chunk.left)
#pragma unroll 1
        for (int unit = helper * 32 + lane; unit < s.head_cols * units; unit += helpers * 32) {
          const Eight left = load_eight(entering.at(unit / units, unit % units * 8)), right = load_eight(leaving.at(unit / units, unit % units * 8));
#pragma unroll
          for (int e = 0; e < 8; e++) product = fmaf(left.v[e], right.v[e], product);
        }
      product = sum_of_warp(product);
      if (lane == 0) found.states()[helper] = product;
    }
    __syncthreads();

    if (warp == finisher) kept.take(found, notes, chunk.length - 1, helpers);
    const float skip = a.skip[head];
#pragma unroll 1
    for (int task = warp; task < 4 * slabs; task += warps) {
      const int first = task % 4 * 16, p = task / 4 * 16, r = first + lane / 4;
      Square within, before, after;
      within.clear();
      before.clear();
      after.clear();
#pragma unroll 2
      for (int k = 0; k < s.state_cols; k += 16) {
        if (chunk.entered) {
          left_operand(u, c, first, k);
          right_transposed(v, entering, k, p);
          before.add_product(u, v);
        }
        if (chunk.left) {
          left_operand(u, b, first, k);
          right_transposed(v, leaving, k, p);
          after.add_product(u, v);
        }
      }
#pragma unroll 1
      for (int k = first; k < CHUNK; k += 16) {
        // Squares lie one under the other, column after column of the triangle.
        left_operand(u, decayed, first / 16 * (144 - first) / 2 + k - first, 0);
        right_operand(v, g, k, p);
        within.add_product(u, v);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int at = r + 8 * e;
        const float delta = notes[at], leave = notes[Leave * CHUNK + at];
        float entered_by = 0, left_by = 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float2 gradient = g.pair(at, p + column_of(half)), input = x.pair(at, p + column_of(half));
          const float *const through = before.v[half] + 2 * e, *const onward = after.v[half] + 2 * e;
          float* const dx = within.v[half] + 2 * e;
          entered_by = fmaf(through[0], gradient.x, fmaf(through[1], gradient.y, entered_by));
          left_by = fmaf(onward[0], input.x, fmaf(onward[1], input.y, left_by));
          dx[0] = fmaf(delta, fmaf(leave, onward[0], dx[0]), skip * gradient.x);
          dx[1] = fmaf(delta, fmaf(leave, onward[1], dx[1]), skip * gradient.y);
        }
        entered_by = sum_of_lanes(entered_by);
        left_by = sum_of_lanes(left_by);
        if (lane % 4 == 0) {
          found.entering(p / 16)[at] = notes[Enter * CHUNK + at] * entered_by;
          found.leaving(p / 16)[at] = leave * left_by;
        }
      }
      write_square(within, a.dxbc + (chunk.row + first) * s.channels + head * s.head_dim + p, s.channels, chunk.length - first, s.head_dim - p,
                   s.fours, a.accumulate);
    }
  }

  if (warp < squares)
    write_square(weights, work.weights + (((int64_t)chunk.index * s.groups + group) * CHUNK + 16 * j) * CHUNK + 16 * i, CHUNK, 16, 16, true, false);
}
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_inputs, 384, 2)

// With 16 warps, for heads of more than 48 elements.
__device__ void ssd_backward_wide_chunk_inputs(const Args& a, void* workspace) { ssd_backward_chunk_inputs(a, workspace); }
EXPORT_CUDA_BF16_ENTRY(ssd_backward, wide_chunk_inputs, 512, 2)

// Blocks: chunk, group, slab of 64 columns of the state, first for dB and then for dC.
//   dB_j = sum_i K_ij C_i + sum over heads of leave_j D_j dH'^T x_j          dC_i = sum_j K_ij B_j + sum over heads of enter_i H^T g_i
__device__ void ssd_backward_chunk_projections(const Args& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  char* const memory = reinterpret_cast<char*>(shared_memory);
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, (int)blockIdx.x);
  const int slabs = (int)gridDim.z / 2, n = (int)blockIdx.z % slabs * 64, group = blockIdx.y, warp = uniform_warp();
  const bool of_c = (int)blockIdx.z >= slabs, passed = of_c ? chunk.entered : chunk.left;
  const int square_bytes = matrix_bytes(CHUNK, 64), rows_bytes = matrix_bytes(CHUNK, s.head_cols), states_bytes = matrix_bytes(s.head_cols, 64);
  const int stage_bytes = rows_bytes + states_bytes + CHUNK * 4;
  const Matrix k_of(memory, 64), other(memory + square_bytes, 64);
  const Units head_units(s.head_cols), units(64);
  const bool whole = s.whole && (reinterpret_cast<uint64_t>(a.dy) & 15) == 0;
  const int64_t stride = of_c ? s.inner : s.channels;
  const bf16* const rows = of_c ? a.dy + chunk.row * s.inner : a.xbc + chunk.row * s.channels;
  const int64_t at_b = chunk.row * s.channels + s.inner + group * s.state + n, at_c = at_b + s.groups * s.state;

  const auto stage_at = [&](int i) { return memory + 2 * square_bytes + i % 2 * stage_bytes; };
  const auto fill = [&](int i) {
    if (passed && i < s.per_group) {
      char* const stage = stage_at(i);
      const int head = group * s.per_group + i;
      const bf16* const states = (of_c ? work.states : work.dstates) + ((int64_t)chunk.index * s.heads + head) * s.state_size() + n;
      head_units.copy(Matrix(stage, s.head_cols), CHUNK, rows + head * s.head_dim, stride, chunk.length, s.head_dim, whole);
      units.copy(Matrix(stage + rows_bytes, 64), s.head_cols, states, s.state_cols, s.head_cols, s.state_cols - n, true);
      copy_notes(reinterpret_cast<float*>(stage + rows_bytes + states_bytes),
                 notes_of(work, s, chunk.index, head) + (of_c ? Enter : Added) * CHUNK, 1);
    }
    commit_copies();
  };
  units.copy(k_of, CHUNK, work.weights + ((int64_t)chunk.index * s.groups + group) * CHUNK * CHUNK, CHUNK, CHUNK, CHUNK, true);
  units.copy(other, CHUNK, a.xbc + (of_c ? at_b : at_c), s.channels, chunk.length, s.state - n, whole);
  Square sums[4];
#pragma unroll
  for (Square& sum : sums) sum.clear();
  for (int h = -1; h < (passed ? s.per_group : 1); h++) {
    wait_copies<0>();
    __syncthreads();
    fill(h + 1);
    if (h < 0) continue;
    if (h == 0)
      for (int k = of_c ? 0 : warp; k < (of_c ? warp + 1 : 4); k++) {
        uint32_t u[4], v[4];
        if (of_c) left_transposed(u, k_of, warp * 16, 16 * k);
        else left_operand(u, k_of, warp * 16, 16 * k);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          right_operand(v, other, 16 * k, 16 * j);
          sums[j].add_product(u, v);
        }
      }
    if (!passed) break;
    char* const stage = stage_at(h);
    const Matrix left(stage, s.head_cols), states(stage + rows_bytes, 64);
    const float* const factors = reinterpret_cast<const float*>(stage + rows_bytes + states_bytes);
    Square of_head[4];
#pragma unroll
    for (Square& sum : of_head) sum.clear();
    for (int k = 0; k < s.head_cols; k += 16) {
      uint32_t u[4], v[4];
      left_operand(u, left, warp * 16, k);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        right_operand(v, states, k, 16 * j);
        of_head[j].add_product(u, v);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int r = row_of(i);
      const float factor = factors[r];
#pragma unroll
      for (int j = 0; j < 16; j++) {
        float& sum = sums[j / 4].v[j / 2 % 2][2 * i + j % 2];
        sum = fmaf(factor, of_head[j / 4].v[j / 2 % 2][2 * i + j % 2], sum);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    write_square(sums[j], a.dxbc + (of_c ? at_c : at_b) + warp * 16 * s.channels + 16 * j, s.channels, chunk.length - warp * 16, s.state - n - 16 * j,
                 s.fours, a.accumulate);
}
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_projections, 128, 4)

// A block of one warp for each head.
__device__ void ssd_backward_chunk_parameters(const Args& a, void* workspace) {
  const Sizes s(a);
  const Work work(s, workspace, true);
  const int head = blockIdx.x;
  double sums[3] = {};
  for (int chunk = threadIdx.x; chunk < s.all_chunks; chunk += 32)
    for (int i = 0; i < 3; i++) sums[i] += work.sums[3 * ((int64_t)chunk * s.heads + head) + i];
  for (double& sum : sums) sum = sum_of_warp(sum);
  if (threadIdx.x != 0) return;
  a.ddtBias[head] += (float)sums[0];
  a.daLog[head] += (float)((double)-expf(a.aLog[head]) * sums[1]);
  a.dskip[head] += (float)sums[2];
}
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_parameters, 32)
