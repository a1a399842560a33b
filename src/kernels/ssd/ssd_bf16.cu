// Forward of ssd.ts with BF16 activations: the passes of ssd_bf16_cuda.h, then y of a chunk, for the heads of a group one after the other.
#include "ssd_bf16_cuda.h"

__device__ void ssd_chunk_decays(const ssd_args<bf16>& a, void* workspace) { compute_decays(a, workspace, false); }
EXPORT_CUDA_BF16_ENTRY(ssd, chunk_decays, 128)

__device__ void ssd_entering_states(const ssd_args<bf16>& a, void* workspace) {
  const Sizes s(a);
  pass_states<false>(a, s, Work(s, workspace, false), a.xbc, s.channels, (int)blockIdx.z);
}
EXPORT_CUDA_BF16_ENTRY(ssd, entering_states, 128)

// Blocks: chunk, group. While a head is computed, the next one's x, H and notes arrive in the other of two stages.
__device__ void ssd_chunk_outputs(const ssd_args<bf16>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  char* const memory = reinterpret_cast<char*>(shared_memory);
  const Sizes s(a);
  const Work work(s, workspace, false);
  const Chunk chunk(a, s, (int)blockIdx.x);
  const int group = blockIdx.y, warp = uniform_warp(), first_head = group * s.per_group;
  const int group_bytes = matrix_bytes(CHUNK, s.state_cols), x_bytes = matrix_bytes(CHUNK, s.head_cols);
  const int states_bytes = matrix_bytes(s.head_cols, s.state_cols), stage_bytes = x_bytes + states_bytes + 3 * CHUNK * 4;
  const Matrix b(memory, s.state_cols), c(memory + group_bytes, s.state_cols);
  const Units head_units(s.head_cols), state_units(s.state_cols);
  const bf16* const row = a.xbc + chunk.row * s.channels;

  const auto stage_at = [&](int i) { return memory + 2 * group_bytes + i % 2 * stage_bytes; };
  const auto fill = [&](int i) {
    if (i < s.per_group) {
      char* const stage = stage_at(i);
      const int head = first_head + i;
      head_units.copy(Matrix(stage, s.head_cols), CHUNK, row + head * s.head_dim, s.channels, chunk.length, s.head_dim, s.whole);
      if (chunk.entered)
        state_units.copy(Matrix(stage + x_bytes, s.state_cols), s.head_cols, work.states + ((int64_t)chunk.index * s.heads + head) * s.state_size(),
                         s.state_cols, s.head_cols, s.state_cols, true);
      copy_notes(reinterpret_cast<float*>(stage + x_bytes + states_bytes), notes_of(work, s, chunk.index, head), 3);
    }
    commit_copies();
  };
  state_units.copy(b, CHUNK, row + s.inner + group * s.state, s.channels, chunk.length, s.state, s.whole);
  state_units.copy(c, CHUNK, row + s.inner + (s.groups + group) * s.state, s.channels, chunk.length, s.state, s.whole);
  const int seen[2] = {first_seen(a.starts, chunk, row_of(0)), first_seen(a.starts, chunk, row_of(1))};
  const bool hidden = __any_sync(0xffffffffu, seen[0] != 0 || seen[1] != 0);
  Square scores[4];
#pragma unroll
  for (Square& square : scores) square.clear();

  for (int h = -1; h < s.per_group; h++) {
    wait_copies<0>();
    __syncthreads();
    fill(h + 1);
    if (h < 0) continue;
    if (h == 0)
      for (int k = 0; k < s.state_cols; k += 16) {
        uint32_t x[4], y[4];
        left_operand(x, c, warp * 16, k);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if (j > warp) continue;
          right_transposed(y, b, k, 16 * j);
          scores[j].add_product(x, y);
        }
      }
    char* const stage = stage_at(h);
    const Matrix x(stage, s.head_cols), entering(stage + x_bytes, s.state_cols);
    const float* const notes = reinterpret_cast<const float*>(stage + x_bytes + states_bytes);
    const int head = first_head + h;
    const float skip = a.skip[head], l[2] = {notes[Sum * CHUNK + row_of(0)], notes[Sum * CHUNK + row_of(1)]};
    const float enter[2] = {notes[Enter * CHUNK + row_of(0)], notes[Enter * CHUNK + row_of(1)]};

    // L_ij (C_i.B_j) D_j. Squares below the diagonal's need no mask if all rows see the whole chunk.
    uint32_t weights[4][4];
    const auto weigh = [&](int j, bool masked) {
      Square square;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int column = 16 * j + column_of(half);
        const float2 delta = *reinterpret_cast<const float2*>(notes + column), at = *reinterpret_cast<const float2*>(notes + Sum * CHUNK + column);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float weight = scores[j].v[half][e] * ((e % 2 ? delta.y : delta.x) * power_of_2(l[e / 2] - (e % 2 ? at.y : at.x)));
          const int q = column + e % 2;
          square.v[half][e] = !masked || (q <= row_of(e / 2) && q >= seen[e / 2]) ? weight : 0.0f;
        }
      }
      square.round_to(weights[j]);
    };
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (j > warp) continue;
      if (j < warp && !hidden) weigh(j, false);
      else weigh(j, true);
    }

    for (int p = 0; p < s.head_cols; p += 16) {
      Square through, within;
      through.clear();
      within.clear();
      uint32_t u[4], v[4];
      if (chunk.entered)
#pragma unroll 2
        for (int k = 0; k < s.state_cols; k += 16) {
          left_operand(u, c, warp * 16, k);
          right_transposed(v, entering, k, p);
          through.add_product(u, v);
        }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (j > warp) continue;
        right_operand(v, x, 16 * j, p);
        within.add_product(weights[j], v);
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float2 own = x.pair(row_of(i), p + column_of(j));
          float* const y = within.v[j] + 2 * i;
          y[0] = fmaf(skip, own.x, fmaf(enter[i], through.v[j][2 * i], y[0]));
          y[1] = fmaf(skip, own.y, fmaf(enter[i], through.v[j][2 * i + 1], y[1]));
        }
      write_square(within, a.y + (chunk.row + warp * 16) * s.inner + head * s.head_dim + p, s.inner, chunk.length - warp * 16, s.head_dim - p,
                   s.fours, false);
    }
  }
}
EXPORT_CUDA_BF16_ENTRY(ssd, chunk_outputs, 128, 4)
