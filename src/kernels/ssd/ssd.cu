// Forward of ssd.ts with FP32 activations: the passes of ssd_cuda.h, then y of 64 rows of a chunk and 64 columns of a head at a time.
#include "ssd_cuda.h"

template <class Act> __device__ void ssd_decays(const ssd_args<Act>& a, void* workspace) { compute_decays(a, workspace, false); }
EXPORT_CUDA_F32_ENTRY(ssd, decays, 128)

template <class Act> __device__ void ssd_scores(const ssd_args<Act>& a, void* workspace) { compute_scores(a, workspace, false); }
EXPORT_CUDA_F32_ENTRY(ssd, scores, 128)

template <class Act> __device__ void ssd_states(const ssd_args<Act>& a, void* workspace) { compute_states(a, workspace, false); }
EXPORT_CUDA_F32_ENTRY(ssd, states, 128)

template <class Act> __device__ void ssd_pass(const ssd_args<Act>& a, void* workspace) { pass_states(a, workspace, false); }
EXPORT_CUDA_F32_ENTRY(ssd, pass, 256)

// Blocks: chunk, head, block of the chunk and of the head.
template <class Act> __device__ void ssd_scan(const ssd_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays rows, columns;
  const Sizes s(a);
  const Work work(s, workspace, false);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t head = blockIdx.y, group = s.group_of(head), block = blockIdx.z / s.head_blocks, first = block * TILE;
  const int64_t p = blockIdx.z % s.head_blocks * TILE;
  if (first >= chunk.length) return;
  const Act* const row = a.xbc + chunk.row * a.channels;
  const Act *const x = row + head * s.head_dim + p, *const c = row + a.inner + (s.groups + group) * s.state;
  const int64_t count = chunk.rows_at(first);
  rows.load_from(a, work, chunk, head, first);

  Tile<TILE> y;
  clear(y);
  if (chunk.entered) {
    const float* const state = work.state(work.states, chunk.index, head) + p * s.state;
    for (int64_t n = 0; n < s.state; n += TILE) {
      __syncthreads();
      memory.first.load_from(c + first * a.channels + n, a.channels, count, s.state - n);
      memory.third.put_from(state + n, s.state, s.head_dim - p, s.state - n, One());
      __syncthreads();
      y.template multiply<TILE, AsIs, Transposed>(memory.first, memory.third);
    }
    each(y, [&](int i, int j, int r, int) { y.v[i][j] *= rows.enter[r]; });
  }
  for (int64_t j = 0; j <= block; j++) {
    const float* const scores = work.square(work.scores, chunk.index, group, block, j);
    __syncthreads();
    columns.load_from(a, work, chunk, head, j * TILE);
    memory.first.load_from(x + j * TILE * a.channels, a.channels, chunk.rows_at(j * TILE), s.head_dim - p);
    __syncthreads();
#pragma unroll 4
    for (int u = threadIdx.x; u < SQUARE; u += TILE_THREADS) {
      const int r = u / TILE, c = u % TILE;
      const float decay = decay_between(rows, first, r, columns, j * TILE, c);
      memory.third.put(r, c, decay == 0.0f ? 0.0f : decay * scores[u] * columns.delta[c]);
    }
    __syncthreads();
    y.template multiply<TILE, AsIs, AsIs>(memory.third, memory.first);
  }
  // The last block of columns is that of the rows: its x is still at hand.
  const float skip = a.skip[head];
  Act* const to = a.y + (chunk.row + first) * a.inner + head * s.head_dim + p;
  each(y, [&](int i, int j, int r, int c) {
    if (r < count && p + c < s.head_dim) to[r * a.inner + c] = fmaf(skip, *memory.first.at(r, c), y.v[i][j]);
  });
}
EXPORT_CUDA_F32_ENTRY(ssd, scan, 128)
