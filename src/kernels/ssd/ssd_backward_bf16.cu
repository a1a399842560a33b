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

// Elements of a state up to which a block has shared memory for two heads.
static constexpr int MOST_FOR_TWO_STAGES = 4096;

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

__device__ inline float sum_of_warp(float x) {
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}
__device__ inline double sum_of_warp(double x) {
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

// What the warps of a block find out about 64 rows and one head.
struct RowSums {
  // Of the triangle below the diagonal: by row, one part for each warp, and by column, without D_j; then the diagonal, so too.
  float rows[4][CHUNK], columns[CHUNK], diagonal[CHUNK];
  // enter_i g_i.(H C_i) and leave_j x_j.(dH' B_j).
  float entering[CHUNK], leaving[CHUNK];
  // <H, dH'> and the sum of g.x, one part for each warp.
  float states[4], skipped[4];
};

// da, ddt and a chunk's sums for the parameters, by one warp; two rows a lane.
__device__ inline void finish_head(const Args& a, const Sizes& s, const Work& work, const Chunk& chunk, int head, const float* notes, const RowSums& found) {
  const int lane = lane_of();
  const float rate = -expf(a.aLog[head]), bias = a.dtBias[head], carry = notes[Enter * CHUNK + chunk.length - 1];
  // What row k adds to da of the rows up to it, and what it takes from those after.
  double gained = 0, lost[2], direct[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    float row = 0;
#pragma unroll
    for (int w = 0; w < 4; w++) row += w <= r / 16 ? found.rows[w][r] : 0.0f;
    const double own = ((double)row - (double)notes[r] * found.columns[r]) + found.entering[r];
    gained += own;
    lost[i] = own - (double)notes[r] * found.leaving[r];
    direct[i] = (double)found.columns[r] + found.leaving[r] + found.diagonal[r];
  }
  double before = lost[0] + lost[1];
  for (int distance = 1; distance < 32; distance *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, before, distance);
    if (lane >= distance) before += other;
  }
  const double passing = (double)carry * ((found.states[0] + found.states[1]) + (found.states[2] + found.states[3]));
  double da = passing + sum_of_warp(gained) - (before - lost[0] - lost[1]), bias_sum = 0, rate_sum = 0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = 2 * lane + i;
    if (r < chunk.length) {
      const int64_t at = (chunk.row + r) * a.width + a.offset + head;
      const float ddt = (float)(direct[i] + (double)rate * da) / (1.0f + expf(-(load(a.projection + at) + bias)));
      store(a.dprojection + at, ddt);
      bias_sum += ddt;
      rate_sum += (double)notes[r] * da;
    }
    da -= lost[i];
  }
  bias_sum = sum_of_warp(bias_sum);
  rate_sum = sum_of_warp(rate_sum);
  if (lane != 0) return;
  double* const sums = work.sums + 3 * ((int64_t)chunk.index * s.heads + head);
  sums[0] = bias_sum;
  sums[1] = rate_sum;
  sums[2] = (double)((found.skipped[0] + found.skipped[1]) + (found.skipped[2] + found.skipped[3]));
}

// Blocks: chunk, group. Rows of squares are columns j of the triangle. Where two stages fit, the next head's matrices arrive while one is computed.
__device__ void ssd_backward_chunk_inputs(const Args& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  __shared__ RowSums found_twice[2];
  char* const memory = reinterpret_cast<char*>(shared_memory);
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, (int)blockIdx.x);
  const int group = blockIdx.y, warp = uniform_warp(), lane = lane_of(), first_head = group * s.per_group;
  const int group_bytes = matrix_bytes(CHUNK, s.state_cols), rows_bytes = matrix_bytes(CHUNK, s.head_cols);
  const int states_bytes = matrix_bytes(s.head_cols, s.state_cols), stage_bytes = 2 * (rows_bytes + states_bytes) + 4 * CHUNK * 4;
  const int stages = s.state_size() > MOST_FOR_TWO_STAGES ? 1 : 2;
  const Matrix b(memory, s.state_cols), c(memory + group_bytes, s.state_cols);
  const Units head_units(s.head_cols), state_units(s.state_cols);
  const bf16* const row = a.xbc + chunk.row * s.channels;
  const bool whole = s.whole && (reinterpret_cast<uint64_t>(a.dy) & 15) == 0;

  const auto stage_at = [&](int i) { return memory + 2 * group_bytes + i % stages * stage_bytes; };
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
  // B_j.C_i for the squares i >= j of this warp's rows, and the sum over heads that becomes K.
  Square scores[4], weights[4];
#pragma unroll
  for (int i = 0; i < 4; i++) scores[i].clear(), weights[i].clear();
  // First rows seen by the lane's columns, as bytes; the last value says that a column sees none.
  uint32_t seen[4], any_seen = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    seen[i] = 0;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int first = first_seen(a.starts, chunk, 16 * i + column_of(e / 2) + e % 2);
      seen[i] |= (uint32_t)(first < 255 ? first : 255) << 8 * e;
    }
    any_seen |= seen[i];
  }
  const bool hidden = __any_sync(0xffffffffu, any_seen != 0);

  for (int h = 1 - stages; h < s.per_group; h++) {
    if (stages == 2) wait_copies<0>();
    __syncthreads();
    fill(h + stages - 1);
    if (h < 0) continue;
    if (stages == 1) {
      wait_copies<0>();
      __syncthreads();
    }
    if (h == 0)
      for (int k = 0; k < s.state_cols; k += 16) {
        uint32_t u[4], v[4];
        left_operand(u, b, warp * 16, k);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (i < warp) continue;
          right_transposed(v, c, k, 16 * i);
          scores[i].add_product(u, v);
        }
      }
    const int head = first_head + h;
    char* const stage = stage_at(h);
    const Matrix x(stage, s.head_cols), g(stage + rows_bytes, s.head_cols);
    const Matrix entering(stage + 2 * rows_bytes, s.state_cols), leaving(stage + 2 * rows_bytes + states_bytes, s.state_cols);
    const float* const notes = reinterpret_cast<const float*>(stage + 2 * (rows_bytes + states_bytes));
    RowSums& found = found_twice[h % 2];
    const float l[2] = {notes[Sum * CHUNK + row_of(0)], notes[Sum * CHUNK + row_of(1)]}, delta[2] = {notes[row_of(0)], notes[row_of(1)]};
    uint32_t u[4], v[4];

    // L_ij (C_i.B_j), and of its products with x_j.g_i the sums over rows and columns of the triangle. Squares off the diagonal need no mask if all
    // rows see the whole chunk.
    uint32_t decayed[4][4];
    float columns[2] = {0, 0}, diagonal[2] = {0, 0}, skipped = 0;
    const auto weigh = [&](int i, const auto& sees, const auto& is_own) {
      Square dots, square;
      dots.clear();
      for (int k = 0; k < s.head_cols; k += 16) {
        left_operand(u, x, warp * 16, k);
        right_transposed(v, g, k, 16 * i);
        dots.add_product(u, v);
      }
      float row_parts[4] = {0, 0, 0, 0};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float2 at = *reinterpret_cast<const float2*>(notes + Sum * CHUNK + 16 * i + column_of(half));
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const bool own = is_own(e / 2, 16 * i + column_of(half) + e % 2);
          const float power = power_of_2((e % 2 ? at.y : at.x) - l[e / 2]), decay = sees(2 * half + e % 2, e / 2) ? power : 0.0f;
          const float dot = dots.v[half][e], value = decay * scores[i].v[half][e], product = own ? 0.0f : value * dot;
          square.v[half][e] = value;
          weights[i].v[half][e] = fmaf(delta[e / 2], decay * dot, weights[i].v[half][e]);
          columns[e / 2] += product;
          row_parts[2 * half + e % 2] = fmaf(delta[e / 2], product, row_parts[2 * half + e % 2]);
          if (own) diagonal[e / 2] += value * dot, skipped += dot;
        }
      }
      square.round_to(decayed[i]);
      const float sum = sum_of_columns(row_parts);
      if (lane / 4 % 2 == 0) found.rows[warp][16 * i + column_of(lane / 16) + lane / 8 % 2] = sum;
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i < warp) continue;
      const auto none = [](int, int) { return false; };
      const auto all = [](int, int) { return true; };
      const auto visible = [&](int column, int row) {
        return row_of(row) <= 16 * i + column_of(column / 2) + column % 2 && row_of(row) >= (int)(seen[i] >> 8 * column & 255);
      };
      if (i > warp && !hidden) weigh(i, all, none);
      else weigh(i, visible, [&](int row, int column) { return row_of(row) == column; });
    }

    const float skip = a.skip[head];
    const float enter[2] = {notes[Enter * CHUNK + row_of(0)], notes[Enter * CHUNK + row_of(1)]};
    const float leave[2] = {notes[Leave * CHUNK + row_of(0)], notes[Leave * CHUNK + row_of(1)]};
    float entered_by[2] = {0, 0}, left_by[2] = {0, 0};
    for (int p = 0; p < s.head_cols; p += 16) {
      Square within, before, after;
      within.clear();
      before.clear();
      after.clear();
      for (int k = 0; k < s.state_cols; k += 16) {
        if (chunk.entered) {
          left_operand(u, c, warp * 16, k);
          right_transposed(v, entering, k, p);
          before.add_product(u, v);
        }
        if (chunk.left) {
          left_operand(u, b, warp * 16, k);
          right_transposed(v, leaving, k, p);
          after.add_product(u, v);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (i < warp) continue;
        right_operand(v, g, 16 * i, p);
        within.add_product(decayed[i], v);
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int r = row_of(i);
        bf16* const to = a.dxbc + (chunk.row + r) * s.channels + head * s.head_dim;
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int column = p + column_of(j);
          const float2 gradient = g.pair(r, column), input = x.pair(r, column);
          const float *const through = before.v[j] + 2 * i, *const onward = after.v[j] + 2 * i, *const inner = within.v[j] + 2 * i;
          entered_by[i] = fmaf(through[0], gradient.x, fmaf(through[1], gradient.y, entered_by[i]));
          left_by[i] = fmaf(onward[0], input.x, fmaf(onward[1], input.y, left_by[i]));
          if (r < chunk.length)
            write_pair(to, column, s.head_dim, fmaf(delta[i], fmaf(leave[i], onward[0], inner[0]), skip * gradient.x),
                       fmaf(delta[i], fmaf(leave[i], onward[1], inner[1]), skip * gradient.y), s.pairs, a.accumulate);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float column = sum_of_lanes(columns[i]), own = sum_of_lanes(diagonal[i]), before = sum_of_lanes(entered_by[i]), after = sum_of_lanes(left_by[i]);
      if (lane % 4 != 0) continue;
      found.columns[row_of(i)] = column;
      found.diagonal[row_of(i)] = own;
      found.entering[row_of(i)] = enter[i] * before;
      found.leaving[row_of(i)] = leave[i] * after;
    }
    float product = 0;
    if (chunk.entered && chunk.left)
      state_units.each(s.head_cols, [&](int r, int c) {
        const Eight left = load_eight(entering.at(r, c)), right = load_eight(leaving.at(r, c));
#pragma unroll
        for (int i = 0; i < 8; i++) product = fmaf(left.v[i], right.v[i], product);
      });
    product = sum_of_warp(product);
    skipped = sum_of_warp(skipped);
    if (lane == 0) found.states[warp] = product, found.skipped[warp] = skipped;
    __syncthreads();
    // The next head's sums go elsewhere, so the other warps need not wait.
    if (warp == h % 4) finish_head(a, s, work, chunk, head, notes, found);
  }

  uint32_t* const to = reinterpret_cast<uint32_t*>(work.weights + ((int64_t)chunk.index * s.groups + group) * CHUNK * CHUNK);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i < warp) continue;
    uint32_t rounded[4];
    weights[i].round_to(rounded);
#pragma unroll
    for (int e = 0; e < 4; e++) to[(row_of(e % 2) * CHUNK + 16 * i + column_of(e / 2)) / 2] = rounded[e];
  }
}
EXPORT_CUDA_BF16_ENTRY(ssd_backward, chunk_inputs, 128, 2)

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
  for (int i = 0; i < 2; i++)
    if (row_of(i) < chunk.length)
#pragma unroll
      for (int j = 0; j < 8; j++)
        write_pair(a.dxbc + (of_c ? at_c : at_b) + row_of(i) * s.channels, column_of(j), s.state - n, sums[j / 2].v[j % 2][2 * i],
                   sums[j / 2].v[j % 2][2 * i + 1], s.pairs, a.accumulate);
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
