// Backward of ssd.ts with FP32 activations; ssd_backward.cpp has its formulas. After the passes of ssd_cuda.h:
//
//   dstates     sum_i enter_i g_i C_i^T for every chunk and head
//   pass_back   along each sequence from its end: dH' at the end of a chunk takes the place of that sum
//   weights     K_ij = sum over the heads of a group of L_ij D_j g_i.x_j, and the triangle's part of dl
//   dc, db      from K and the states; dc gives the states' part of dl
//   dx          and with it direct, leave x.R and g.x
//   finish      da, ddt and a chunk's sums for the parameters, then
//   parameters  adds those up, chunks in order
//
// sum_i L_ij (C_i.B_j) X_ij, the triangle's part of direct_j, is x_j.(sum_i L_ij (C_i.B_j) g_i), whose second factor dx needs anyway.
#include "ssd_cuda.h"

template <class Act> __device__ void ssd_backward_decays(const ssd_backward_args<Act>& a, void* workspace) {
  compute_decays(a, workspace, true);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, decays, 128)

template <class Act> __device__ void ssd_backward_scores(const ssd_backward_args<Act>& a, void* workspace) {
  compute_scores(a, workspace, true);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, scores, 128)

template <class Act> __device__ void ssd_backward_states(const ssd_backward_args<Act>& a, void* workspace) {
  compute_states(a, workspace, true);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, states, 128)

template <class Act> __device__ void ssd_backward_pass(const ssd_backward_args<Act>& a, void* workspace) {
  pass_states(a, workspace, true);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, pass, 256)

template <class Act> __device__ void ssd_backward_dstates(const ssd_backward_args<Act>& a, void* workspace) {
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  if (chunk.begin == 0) return;
  const int64_t head = blockIdx.y;
  sum_of_products(a, work, chunk, a.dy + chunk.row * a.inner + head * s.head_dim, a.inner,
                  a.xbc + chunk.row * a.channels + a.inner + (s.groups + s.group_of(head)) * s.state, a.channels,
                  work.state(work.dstates, chunk.index, head), [](const Decays& d, int r) { return d.enter[r]; });
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, dstates, 128)

template <class Act> __device__ void ssd_backward_pass_back(const ssd_backward_args<Act>& a, void* workspace) {
  const Sizes s(a);
  const Work work(s, workspace, true);
  pass_sums<true>(a, s, work, work.dstates);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, pass_back, 256)

// to[r] (+)= sum over the columns of body(i, j, r, c), by the lanes that share a row of the tile.
template <class Body> __device__ void row_sums(const Tile<TILE>& tile, int64_t rows, float* to, bool add, const Body& body) {
#pragma unroll
  for (int i = 0; i < tile.rows; i++) {
    const int r = tile.row(i);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < tile.cols; j++) sum += body(i, j, r, tile.col(j));
    sum = sum_of_row(sum);
    if (threadIdx.x % tile.lanes == 0 && r < rows) to[r] = add ? to[r] + sum : sum;
  }
}

// Blocks: chunk, group, block of rows.
template <class Act> __device__ void ssd_backward_weights(const ssd_backward_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays rows, columns;
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t group = blockIdx.y, first = (int64_t)blockIdx.z * TILE, per_group = s.heads / s.groups;
  if (first >= chunk.length) return;
  const int64_t count = chunk.rows_at(first);
  for (int64_t block = 0; block <= blockIdx.z; block++) {
    const int64_t column = block * TILE, columns_count = chunk.rows_at(column);
    const float* const scores_at = work.square(work.scores, chunk.index, group, blockIdx.z, block);
    Tile<TILE> scores, weights, dots;
    clear(weights);
    each(scores, [&](int i, int j, int r, int c) { scores.v[i][j] = scores_at[r * TILE + c]; });
    for (int64_t head = group * per_group; head < (group + 1) * per_group; head++) {
      clear(dots);
      for (int64_t p = 0; p < s.head_dim; p += TILE) {
        __syncthreads();
        if (p == 0) {
          rows.load_from(a, work, chunk, head, first);
          columns.load_from(a, work, chunk, head, column);
        }
        const int64_t at = head * s.head_dim + p;
        memory.first.load_from(a.dy + (chunk.row + first) * a.inner + at, a.inner, count, s.head_dim - p);
        memory.second.load_from(a.xbc + (chunk.row + column) * a.channels + at, a.channels, columns_count, s.head_dim - p);
        __syncthreads();
        dots.template multiply<TILE, AsIs, Transposed>(memory.first, memory.second);
      }
      each(dots, [&](int i, int j, int r, int c) {
        const float decay = decay_between(rows, first, r, columns, column, c);
        dots.v[i][j] = decay == 0.0f ? 0.0f : decay * columns.delta[c] * dots.v[i][j];
        weights.v[i][j] += dots.v[i][j];
      });
      row_sums(dots, count, work.dl + head * s.rows + chunk.row + first, block > 0, [&](int i, int j, int r, int c) {
        return column + c < first + r ? dots.v[i][j] * scores.v[i][j] : 0.0f;
      });
    }
    float* const to = work.square(work.weights, chunk.index, group, blockIdx.z, block);
    each(weights, [&](int i, int j, int r, int c) { to[r * TILE + c] = weights.v[i][j]; });
  }
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, weights, 128)

// Blocks: chunk, group, block of rows and of the state.
template <class Act> __device__ void ssd_backward_dc(const ssd_backward_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays rows;
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t group = blockIdx.y, block = blockIdx.z / s.state_blocks, slab = blockIdx.z % s.state_blocks;
  const int64_t first = block * TILE, n = slab * TILE, per_group = s.heads / s.groups;
  if (first >= chunk.length) return;
  const int64_t count = chunk.rows_at(first), b = a.inner + group * s.state + n, c = b + s.groups * s.state;

  Tile<TILE> dc;
  clear(dc);
  for (int64_t j = 0; j <= block; j++) {
    __syncthreads();
    memory.third.put_from(work.square(work.weights, chunk.index, group, block, j), TILE, TILE, TILE, One());
    memory.first.load_from(a.xbc + (chunk.row + j * TILE) * a.channels + b, a.channels, chunk.rows_at(j * TILE), s.state - n);
    __syncthreads();
    dc.template multiply<TILE, AsIs, AsIs>(memory.third, memory.first);
  }
  __syncthreads();
  memory.second.load_from(a.xbc + (chunk.row + first) * a.channels + c, a.channels, count, s.state - n);
  for (int64_t head = group * per_group; head < (group + 1) * per_group; head++) {
    Tile<TILE> u;
    clear(u);
    if (chunk.entered)
      for (int64_t p = 0; p < s.head_dim; p += TILE) {
        __syncthreads();
        if (p == 0) rows.load_from(a, work, chunk, head, first);
        memory.first.load_from(a.dy + (chunk.row + first) * a.inner + head * s.head_dim + p, a.inner, count, s.head_dim - p);
        memory.third.put_from(work.state(work.states, chunk.index, head) + p * s.state + n, s.state, s.head_dim - p, s.state - n, One());
        __syncthreads();
        u.template multiply<TILE, AsIs, AsIs>(memory.first, memory.third);
      }
    each(u, [&](int i, int j, int r, int) {
      u.v[i][j] = chunk.entered ? u.v[i][j] * rows.enter[r] : 0.0f;
      dc.v[i][j] += u.v[i][j];
    });
    float* const dl = work.dl + ((1 + slab) * s.heads + head) * s.rows + chunk.row + first;
    row_sums(u, count, dl, false, [&](int i, int j, int r, int c) { return chunk.entered ? u.v[i][j] * load(memory.second.at(r, c)) : 0.0f; });
  }
  write_rows(dc, a.dxbc + (chunk.row + first) * a.channels + c, a.channels, count, s.state - n, a.accumulate);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, dc, 128)

// Blocks: chunk, group, block of rows and of the state.
template <class Act> __device__ void ssd_backward_db(const ssd_backward_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays rows;
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t group = blockIdx.y, block = blockIdx.z / s.state_blocks, n = blockIdx.z % s.state_blocks * TILE;
  const int64_t first = block * TILE, per_group = s.heads / s.groups;
  if (first >= chunk.length) return;
  const int64_t count = chunk.rows_at(first), b = a.inner + group * s.state + n, c = b + s.groups * s.state;

  Tile<TILE> db;
  clear(db);
  for (int64_t i = block; i * TILE < chunk.length; i++) {
    __syncthreads();
    memory.third.put_from(work.square(work.weights, chunk.index, group, i, block), TILE, TILE, TILE, One());
    memory.first.load_from(a.xbc + (chunk.row + i * TILE) * a.channels + c, a.channels, chunk.rows_at(i * TILE), s.state - n);
    __syncthreads();
    db.template multiply<TILE, Transposed, AsIs>(memory.third, memory.first);
  }
  if (chunk.left)
    for (int64_t head = group * per_group; head < (group + 1) * per_group; head++) {
      Tile<TILE> v;
      clear(v);
      for (int64_t p = 0; p < s.head_dim; p += TILE) {
        __syncthreads();
        if (p == 0) rows.load_from(a, work, chunk, head, first);
        memory.first.load_from(a.xbc + (chunk.row + first) * a.channels + head * s.head_dim + p, a.channels, count, s.head_dim - p);
        memory.third.put_from(work.state(work.dstates, chunk.index, head) + p * s.state + n, s.state, s.head_dim - p, s.state - n, One());
        __syncthreads();
        v.template multiply<TILE, AsIs, AsIs>(memory.first, memory.third);
      }
      each(v, [&](int i, int j, int r, int) { db.v[i][j] = fmaf(rows.leave[r] * rows.delta[r], v.v[i][j], db.v[i][j]); });
    }
  write_rows(db, a.dxbc + (chunk.row + first) * a.channels + b, a.channels, count, s.state - n, a.accumulate);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, db, 128)

// Blocks: chunk, head, block of rows and of the head.
template <class Act> __device__ void ssd_backward_dx(const ssd_backward_args<Act>& a, void* workspace) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays rows, columns;
  __shared__ float diagonal[TILE];
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t head = blockIdx.y, group = s.group_of(head), block = blockIdx.z / s.head_blocks, slab = blockIdx.z % s.head_blocks;
  const int64_t first = block * TILE, p = slab * TILE;
  if (first >= chunk.length) return;
  const int64_t count = chunk.rows_at(first), at = head * s.head_dim + p;
  const Act* const dy = a.dy + chunk.row * a.inner + at;
  columns.load_from(a, work, chunk, head, first);
  for (int r = threadIdx.x; r < TILE; r += TILE_THREADS)
    diagonal[r] = work.square(work.scores, chunk.index, group, block, block)[r * TILE + r];

  // Rows of these tiles are columns of the triangle.
  Tile<TILE> dx, through;
  clear(dx);
  clear(through);
  if (chunk.left)
    for (int64_t n = 0; n < s.state; n += TILE) {
      __syncthreads();
      memory.first.load_from(a.xbc + (chunk.row + first) * a.channels + a.inner + group * s.state + n, a.channels, count, s.state - n);
      memory.third.put_from(work.state(work.dstates, chunk.index, head) + p * s.state + n, s.state, s.head_dim - p, s.state - n, One());
      __syncthreads();
      through.template multiply<TILE, AsIs, Transposed>(memory.first, memory.third);
    }
  // The block of the diagonal last: its g is then at hand.
  for (int64_t i = (chunk.length - 1) / TILE; i >= block; i--) {
    const float* const scores = work.square(work.scores, chunk.index, group, i, block);
    __syncthreads();
    rows.load_from(a, work, chunk, head, i * TILE);
    memory.first.load_from(dy + i * TILE * a.inner, a.inner, chunk.rows_at(i * TILE), s.head_dim - p);
    __syncthreads();
#pragma unroll 4
    for (int u = threadIdx.x; u < SQUARE; u += TILE_THREADS) {
      const int r = u / TILE, c = u % TILE;
      const float decay = i == block && r == c ? 0.0f : decay_between(rows, i * TILE, r, columns, first, c);
      memory.third.put(r, c, decay == 0.0f ? 0.0f : decay * scores[u]);
    }
    __syncthreads();
    dx.template multiply<TILE, Transposed, AsIs>(memory.third, memory.first);
  }
  memory.second.load_from(a.xbc + (chunk.row + first) * a.channels + at, a.channels, count, s.head_dim - p);
  __syncthreads();

  each(through, [&](int i, int j, int r, int) { through.v[i][j] *= columns.leave[r]; });
  const int64_t part = (slab * s.heads + head) * s.rows + chunk.row + first;
  row_sums(dx, count, work.direct + part, false, [&](int i, int j, int r, int c) { return dx.v[i][j] * load(memory.second.at(r, c)); });
  row_sums(through, count, work.through + part, false, [&](int i, int j, int r, int c) { return through.v[i][j] * load(memory.second.at(r, c)); });
  row_sums(dx, count, work.skipped + part, false,
           [&](int, int, int r, int c) { return load(memory.first.at(r, c)) * load(memory.second.at(r, c)); });
  const float skip = a.skip[head];
  each(dx, [&](int i, int j, int r, int c) {
    const float gradient = load(memory.first.at(r, c));
    const float sum = fmaf(diagonal[r], gradient, dx.v[i][j] + through.v[i][j]);
    dx.v[i][j] = fmaf(columns.delta[r], sum, skip * gradient);
  });
  write_rows(dx, a.dxbc + (chunk.row + first) * a.channels + at, a.channels, count, s.head_dim - p, a.accumulate);
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, dx, 128)

// Of all 128 threads, as a tree; all of them get it.
__device__ inline double sum_of_block(double x) {
  __shared__ double values[TILE_THREADS];
  __syncthreads();
  values[threadIdx.x] = x;
  for (int half = TILE_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
  }
  __syncthreads();
  return values[0];
}

// Blocks: chunk, head.
template <class Act> __device__ void ssd_backward_finish(const ssd_backward_args<Act>& a, void* workspace) {
  __shared__ double da[TILE_THREADS];
  const Sizes s(a);
  const Work work(s, workspace, true);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t head = blockIdx.y, per_row = s.rows * s.heads, at = head * s.rows + chunk.row, last = chunk.length - 1;
  const float rate = -expf(a.aLog[head]);
  const auto over_parts = [&](const float* parts, int64_t count, int64_t row) {
    float sum = 0;
    for (int64_t part = 0; part < count; part++) sum += parts[part * per_row + at + row];
    return sum;
  };

  // The gradient of l at the chunk's last row, through what it leaves to the next.
  double leaving = 0;
  if (chunk.left) {
    const float *const state = work.state(work.states, chunk.index, head), *const dstate = work.state(work.dstates, chunk.index, head);
    float product = 0;
    for (int64_t i = threadIdx.x; i < s.head_dim * s.state; i += TILE_THREADS) product = fmaf(state[i], dstate[i], product);
    leaving = (double)carry_of(a, work, chunk, head) * product;
    for (int64_t j = threadIdx.x; j < last; j += TILE_THREADS)
      leaving += (double)work.delta[at + j] * over_parts(work.through, s.head_blocks, j);
  }
  double running = sum_of_block(leaving), bias_sum = 0, rate_sum = 0, skip_sum = 0;

  for (int64_t first = last / TILE_THREADS * TILE_THREADS; first >= 0; first -= TILE_THREADS) {
    const int64_t k = first + threadIdx.x;
    const bool valid = k <= last;
    float delta = 0, direct = 0, own = 0;
    double term = 0;
    if (valid) {
      const int64_t block = k / TILE, in_block = k % TILE;
      const float through = over_parts(work.through, s.head_blocks, k), skipped = over_parts(work.skipped, s.head_blocks, k);
      delta = work.delta[at + k];
      direct = over_parts(work.direct, s.head_blocks, k) + (k < last ? through : 0.0f);
      own = work.square(work.scores, chunk.index, s.group_of(head), block, block)[in_block * TILE + in_block] * skipped;
      if (k == last) own += through;
      term = (double)over_parts(work.dl, 1 + s.state_blocks, k) - (double)delta * (double)direct;
      skip_sum += skipped;
    }
    __syncthreads();
    da[threadIdx.x] = term;
    __syncthreads();
    if (threadIdx.x == 0)
      for (int i = TILE_THREADS - 1; i >= 0; i--) da[i] = running += da[i];
    __syncthreads();
    if (!valid) continue;
    const int64_t r = chunk.row + k;
    const float biased = load(a.projection + r * a.width + a.offset + head) + a.dtBias[head];
    const float ddt = (float)((double)direct + (double)own + (double)rate * da[threadIdx.x]) / (1.0f + expf(-biased));
    store(a.dprojection + r * a.width + a.offset + head, ddt);
    bias_sum += ddt;
    rate_sum += (double)delta * da[threadIdx.x];
  }
  bias_sum = sum_of_block(bias_sum);
  rate_sum = sum_of_block(rate_sum);
  skip_sum = sum_of_block(skip_sum);
  if (threadIdx.x != 0) return;
  double* const sums = work.sums + 3 * (chunk.index * s.heads + head);
  sums[0] = bias_sum;
  sums[1] = rate_sum;
  sums[2] = skip_sum;
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, finish, 128)

// A block of one warp for each head.
template <class Act> __device__ void ssd_backward_parameters(const ssd_backward_args<Act>& a, void* workspace) {
  const Sizes s(a);
  const Work work(s, workspace, true);
  const int64_t head = blockIdx.x;
  double sums[3] = {};
  for (int64_t chunk = threadIdx.x; chunk < s.all_chunks(); chunk += 32)
    for (int i = 0; i < 3; i++) sums[i] += work.sums[3 * (chunk * s.heads + head) + i];
  for (int i = 0; i < 3; i++)
    for (int distance = 16; distance > 0; distance /= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], distance);
  if (threadIdx.x != 0) return;
  a.ddtBias[head] += (float)sums[0];
  a.daLog[head] += (float)((double)-expf(a.aLog[head]) * sums[1]);
  a.dskip[head] += (float)sums[2];
}
EXPORT_CUDA_F32_ENTRY(ssd_backward, parameters, 32)
