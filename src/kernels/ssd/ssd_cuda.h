// What ssd.cu and ssd_backward.cu share, for FP32 activations: the chunked form of ssd.ts (see ssd_chunk.h for its formulas) in blocks of 64 rows of a chunk
// and 64 columns of a state (tile_cuda.h). Passes in the order of launches, each parallel over chunks but the fourth:
//
//   decays   D and l = sum D A within the chunk, for every row and head
//   scores   C_i.B_j for every chunk and group, tiles of the lower triangle
//   states   sum_j leave_j D_j x_j B_j^T for every chunk and head, what the chunk adds to the state (P x N)
//   pass     along each sequence: the state that enters a chunk takes the place of what the chunk adds
#pragma once
#include "tile_cuda.h"

static constexpr int SQUARE = TILE * TILE;

__device__ inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Sizes {
  int64_t rows, sequence, chunk, chunks, groups, state, heads, head_dim;
  // Blocks of 64 that cover a chunk, a head and a state, and tiles in a chunk's triangle.
  int64_t chunk_blocks, head_blocks, state_blocks, triangle;

  template <class Args> __device__ explicit Sizes(const Args& a) {
    rows = a.rows;
    sequence = a.sequence;
    chunk = least(a.chunk, sequence);
    chunks = (sequence + chunk - 1) / chunk;
    groups = a.groups;
    state = a.state;
    heads = a.heads;
    head_dim = a.inner / a.heads;
    chunk_blocks = (chunk + TILE - 1) / TILE;
    head_blocks = (head_dim + TILE - 1) / TILE;
    state_blocks = (state + TILE - 1) / TILE;
    triangle = chunk_blocks * (chunk_blocks + 1) / 2;
  }
  __device__ int64_t all_chunks() const { return rows / sequence * chunks; }
  __device__ int64_t group_of(int64_t head) const { return head / (heads / groups); }
};

// The workspace; ssd.ts computes its size. Values of a row and head lie at [head][row], states at [chunk][head][p][n].
struct Work {
  const Sizes& s;
  // Per chunk and head: sums of ddt, D da and g.x. Backward only.
  double* sums;
  // l is the sum of two floats, so that its differences are exact to FP32 wherever it has grown to.
  float *delta, *high, *low;
  float *scores, *states;
  // Backward only. K_ij, dH' at the end of each chunk; dl but for -D direct, in parts to be added: one of the triangle, then one per block of
  // the state; direct, leave x.R and g.x, one part per block of the head.
  float *weights, *dstates, *dl, *direct, *through, *skipped;

  __device__ Work(const Sizes& s, void* workspace, bool backward) : s(s) {
    const int64_t per_row = s.rows * s.heads, squares = s.all_chunks() * s.groups * s.triangle * SQUARE;
    const int64_t all_states = s.all_chunks() * s.heads * s.head_dim * s.state;
    sums = static_cast<double*>(workspace);
    delta = reinterpret_cast<float*>(sums + (backward ? 3 * s.all_chunks() * s.heads : 0));
    high = delta + per_row;
    low = high + per_row;
    scores = low + per_row;
    states = scores + squares;
    weights = states + all_states;
    dstates = weights + squares;
    dl = dstates + all_states;
    direct = dl + (1 + s.state_blocks) * per_row;
    through = direct + s.head_blocks * per_row;
    skipped = through + s.head_blocks * per_row;
  }
  __device__ float* square(float* squares, int64_t chunk, int64_t group, int64_t i, int64_t j) const {
    return squares + ((chunk * s.groups + group) * s.triangle + i * (i + 1) / 2 + j) * SQUARE;
  }
  __device__ float* state(float* of, int64_t chunk, int64_t head) const {
    return of + (chunk * s.heads + head) * s.head_dim * s.state;
  }
};

// Where a chunk lies: `length` rows from row `row`, at position `begin` of their sequence.
struct Chunk {
  int64_t index, row, begin, length;
  // Whether any of its rows sees the token before it (if so, the first does), and whether a chunk follows.
  bool entered, left;

  template <class Args> __device__ Chunk(const Args& a, const Sizes& s, int64_t index) : index(index) {
    begin = index % s.chunks * s.chunk;
    row = index / s.chunks * s.sequence + begin;
    length = least(s.chunk, s.sequence - begin);
    entered = a.starts[row] < begin;
    left = begin + length < s.sequence;
  }
  __device__ int64_t rows_at(int64_t first) const { return least(TILE, length - first); }
};

// What a chunk's end makes of the state that enters it.
template <class Args> __device__ float carry_of(const Args& a, const Work& work, const Chunk& chunk, int64_t head) {
  const int64_t last = chunk.row + chunk.length - 1;
  return a.starts[last] < chunk.begin ? expf(work.high[head * work.s.rows + last]) : 0.0f;
}

// Decays of 64 rows of a chunk from row `first` of it, of one head, in shared memory. Past the end of the chunk all factors are 0.
struct Decays {
  float delta[TILE], high[TILE], low[TILE], enter[TILE], leave[TILE];
  // First row of the chunk that each row sees.
  int32_t seen[TILE];

  template <class Args>
  __device__ void load_from(const Args& a, const Work& work, const Chunk& chunk, int64_t head, int64_t first) {
    const int64_t at = head * work.s.rows + chunk.row, last = chunk.length - 1;
    const float total = work.high[at + last], rest = work.low[at + last];
    const int64_t seen_by_last = a.starts[chunk.row + last] - chunk.begin;
    for (int r = threadIdx.x; r < TILE; r += TILE_THREADS) {
      const int64_t i = first + r;
      const bool valid = i < chunk.length;
      const int64_t start = valid ? a.starts[chunk.row + i] - chunk.begin : 0;
      delta[r] = valid ? work.delta[at + i] : 0.0f;
      high[r] = valid ? work.high[at + i] : 0.0f;
      low[r] = valid ? work.low[at + i] : 0.0f;
      enter[r] = valid && start < 0 ? expf(high[r]) : 0.0f;
      leave[r] = valid && i >= seen_by_last ? expf((total - high[r]) + (rest - low[r])) : 0.0f;
      seen[r] = !valid ? 0x7fffffff : start < 0 ? 0 : (int32_t)start;
    }
  }
};

// L of row r of a block from `first` and column c of one from `first_column`; 0 above the diagonal and past what the row sees.
__device__ inline float decay_between(const Decays& rows, int64_t first, int r, const Decays& columns, int64_t first_column, int c) {
  const int64_t i = first + r, j = first_column + c;
  return j <= i && j >= rows.seen[r] ? expf((rows.high[r] - columns.high[c]) + (rows.low[r] - columns.low[c])) : 0.0f;
}

// The shared memory of a block of threads.
struct Memory {
  using Matrix = SharedMatrix<TILE, TILE>;
  Matrix first, second, third;
  __device__ explicit Memory(uint4* memory)
      : first(memory), second(reinterpret_cast<char*>(memory) + Matrix::bytes), third(reinterpret_cast<char*>(memory) + 2 * Matrix::bytes) {}
};

struct One {
  __device__ float operator()(int) const { return 1.0f; }
};

// One thread a chunk and head.
template <class Args> __device__ void compute_decays(const Args& a, void* workspace, bool backward) {
  const Sizes s(a);
  const Work work(s, workspace, backward);
  const int64_t task = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (task >= s.all_chunks() * s.heads) return;
  const int64_t head = task % s.heads;
  const Chunk chunk(a, s, task / s.heads);
  const double rate = -expf(a.aLog[head]);
  const float bias = a.dtBias[head];
  double sum = 0;
  for (int64_t r = chunk.row; r < chunk.row + chunk.length; r++) {
    const float biased = load(a.projection + r * a.width + a.offset + head) + bias;
    const float delta = biased > 20.0f ? biased : log1pf(expf(biased));
    sum += (double)delta * rate;
    const float high = (float)sum;
    const int64_t at = head * s.rows + r;
    work.delta[at] = delta;
    work.high[at] = high;
    work.low[at] = (float)(sum - (double)high);
  }
}

// Blocks: chunk, group, tile of the triangle.
template <class Args> __device__ void compute_scores(const Args& a, void* workspace, bool backward) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  const Sizes s(a);
  const Work work(s, workspace, backward);
  const Chunk chunk(a, s, blockIdx.x);
  const int64_t group = blockIdx.y;
  int i = 0, j = blockIdx.z;
  for (; j > i; i++) j -= i + 1;
  if (i * TILE >= chunk.length) return;
  const float* const b = a.xbc + chunk.row * a.channels + a.inner + group * s.state;
  const float* const c = b + s.groups * s.state;
  Tile<TILE> scores;
  clear(scores);
  for (int64_t n = 0; n < s.state; n += TILE) {
    __syncthreads();
    memory.first.load_from(c + i * TILE * a.channels + n, a.channels, chunk.rows_at(i * TILE), s.state - n);
    memory.second.load_from(b + j * TILE * a.channels + n, a.channels, chunk.rows_at(j * TILE), s.state - n);
    __syncthreads();
    scores.template multiply<TILE, AsIs, Transposed>(memory.first, memory.second);
  }
  float* const to = work.square(work.scores, chunk.index, group, i, j);
  each(scores, [&](int i, int j, int r, int c) { to[r * TILE + c] = scores.v[i][j]; });
}

// to[p, n] = sum over the rows of a chunk of factor(decays, r) u[row, p] v[row, n]. Blocks: chunk, head, block of the head and of the state; u and v
// point to the chunk's first row and this head.
template <class Args, class Act, class Factor>
__device__ void sum_of_products(const Args& a, const Work& work, const Chunk& chunk, const Act* u, int64_t u_stride, const Act* v,
                                int64_t v_stride, float* to, const Factor& factor) {
  extern __shared__ uint4 shared_memory[];
  const Memory memory(shared_memory);
  __shared__ Decays decays;
  const Sizes& s = work.s;
  const int64_t p = blockIdx.z / s.state_blocks * TILE, n = blockIdx.z % s.state_blocks * TILE;
  Tile<TILE> sum;
  clear(sum);
  for (int64_t first = 0; first < chunk.length; first += TILE) {
    const int64_t rows = chunk.rows_at(first);
    __syncthreads();
    decays.load_from(a, work, chunk, blockIdx.y, first);
    memory.second.load_from(v + first * v_stride + n, v_stride, rows, s.state - n);
    __syncthreads();
    memory.third.put_from(u + first * u_stride + p, u_stride, rows, s.head_dim - p, [&](int r) { return factor(decays, r); });
    __syncthreads();
    sum.template multiply<TILE, Transposed, AsIs>(memory.third, memory.second);
  }
  each(sum, [&](int i, int j, int r, int c) {
    if (p + r < s.head_dim && n + c < s.state) to[(p + r) * s.state + n + c] = sum.v[i][j];
  });
}

template <class Args> __device__ void compute_states(const Args& a, void* workspace, bool backward) {
  const Sizes s(a);
  const Work work(s, workspace, backward);
  const Chunk chunk(a, s, blockIdx.x);
  if (!chunk.left) return;
  const int64_t head = blockIdx.y;
  const auto* const row = a.xbc + chunk.row * a.channels;
  sum_of_products(a, work, chunk, row + head * s.head_dim, a.channels, row + a.inner + s.group_of(head) * s.state, a.channels,
                  work.state(work.states, chunk.index, head), [](const Decays& d, int r) { return d.leave[r] * d.delta[r]; });
}

// Along a sequence, from its end if `Reverse`: the sum before a chunk takes the place of what the chunk adds to it. Blocks: elements of a state, head,
// sequence.
template <bool Reverse, class Args> __device__ void pass_sums(const Args& a, const Sizes& s, const Work& work, float* of) {
  // What chunks make of the sum, so many at a time.
  __shared__ float carries[256];
  const int64_t element = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, step = (Reverse ? -1 : 1) * s.heads * s.head_dim * s.state;
  const auto number_of = [&](int64_t i) { return blockIdx.z * s.chunks + (Reverse ? s.chunks - 1 - i : i); };
  float* at = work.state(of, number_of(0), blockIdx.y) + element;
  float sum = 0;
  for (int64_t i = 0; i < s.chunks; i++, at += step) {
    if (i % blockDim.x == 0) {
      __syncthreads();
      if (i + threadIdx.x < s.chunks) carries[threadIdx.x] = carry_of(a, work, Chunk(a, s, number_of(i + threadIdx.x)), blockIdx.y);
      __syncthreads();
    }
    if (element >= s.head_dim * s.state) continue;
    // The last chunk adds to nothing.
    const float added = i < s.chunks - 1 ? *at : 0.0f;
    *at = sum;
    sum = fmaf(carries[i % blockDim.x], sum, added);
  }
}
template <class Args> __device__ void pass_states(const Args& a, void* workspace, bool backward) {
  const Sizes s(a);
  const Work work(s, workspace, backward);
  pass_sums<false>(a, s, work, work.states);
}
