// Forward and backward of conv_silu.ts. A warp walks down a strip of rows, each lane with neighbouring channels whose weights and last rows it
// keeps in registers: an element of memory is read once. Row r of the backward pass adds du[r] to dx of the rows that it sees, the last of which
// is then complete; du of the taps-1 rows after the strip is computed anew. dweight and dbias are summed per lane, rows in order, over the strips
// of a block, and then over the blocks.
//
// Convolutions of more taps than fit into registers are computed element by element.
#include "sigmoid_cuda.h"
#include "sums_cuda.h"

static constexpr int strips = 4, strip_rows = 32, block_rows = strips * strip_rows, block_channels = 128;
static constexpr int rows_ahead = 4;  // rows of which a lane has loads under way
static constexpr int most_taps = 4;

// One element or four consecutive ones as they are in memory, where four lie at a multiple of their size.
template <class Act, int N> struct Run {
  Act x;
  __device__ float get(int) const { return load(&x); }
  __device__ static Run of(const float (&values)[1]) {
    Run run;
    store(&run.x, values[0]);
    return run;
  }
};
template <> struct Run<float, 4> {
  float4 x;
  __device__ float get(int i) const { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }
  __device__ static Run of(const float (&values)[4]) { return {make_float4(values[0], values[1], values[2], values[3])}; }
};
template <> struct Run<bf16, 4> {
  uint2 pairs;
  __device__ float get(int i) const {
    const uint32_t pair = i < 2 ? pairs.x : pairs.y;
    return float_of(i % 2 ? pair & 0xffff0000u : pair << 16);
  }
  __device__ static Run of(const float (&values)[4]) { return {make_uint2(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]))}; }
};
template <class T> __device__ bool in_fours(const T* at) { return (reinterpret_cast<uint64_t>(at) & (4 * sizeof(T) - 1)) == 0; }

// Whether four channels from a multiple of 4 on are a Run in every row.
template <class Args, class... Act> __device__ bool in_runs(const Args& a, const Act*... at) {
  return a.channels % 4 == 0 && a.width % 4 == 0 && a.offset % 4 == 0 && (in_fours(at) && ...);
}

static constexpr int before = most_taps - 1;

// Rows of a strip are counted from `before` rows before its first: this is the first and the last that there are.
struct Strip {
  int64_t origin;
  uint32_t first, last;
  __device__ Strip(int64_t rows, int number) {
    const int64_t begin = blockIdx.x * (int64_t)block_rows + number * strip_rows, after = rows - 1 - begin;
    origin = begin - before;
    first = begin == 0 ? before : 0;
    last = after < 0 ? 0 : (uint32_t)(after < strip_rows + before ? after : strip_rows + before) + before;
  }
  __device__ bool empty() const { return last == 0; }
};

// N channels of an operand in a strip; offsets in it are of 32 bits.
template <class Act, int N> struct Column {
  char* from;
  uint32_t row_bytes;
  __device__ Column(const Act* matrix, int64_t stride, const Strip& strip, int64_t c)
      : from(reinterpret_cast<char*>(const_cast<Act*>(matrix) + strip.origin * stride + c)), row_bytes((uint32_t)(stride * sizeof(Act))) {}
  __device__ Run<Act, N>* at(uint32_t row) const { return reinterpret_cast<Run<Act, N>*>(from + (uint64_t)row * row_bytes); }
  // What is read in place of a row after the last is not used.
  __device__ Run<Act, N> get(uint32_t row, const Strip& strip) const { return *at(row < strip.last ? row : strip.last); }
  __device__ void get(uint32_t row, const Strip& strip, Run<Act, N> (&to)[rows_ahead]) const {
#pragma unroll
    for (int k = 0; k < rows_ahead; k++) to[k] = get(row + k, strip);
  }
};

// Position of a row in its sequence; division of 32 bits is several times faster than that of 64.
template <class Args> __device__ int position_of(const Args& a, int64_t r) { return (uint32_t)r % (uint32_t)a.sequence; }

// How many rows before it each row of this block and of the taps-1 after it sees: up to taps-1; -1 where there is no row.
struct Seen {
  int8_t rows[block_rows + most_taps];

  __device__ int of(int strip, uint32_t row) const { return rows[strip * strip_rows + row - before]; }
  template <class Args> __device__ void fill(const Args& a) {
    const int64_t begin = blockIdx.x * (int64_t)block_rows;
    BLOCK_LOOP(i, block_rows + most_taps) {
      int seen = -1;
      if (begin + i < a.rows) {
        seen = position_of(a, begin + i) - a.starts[begin + i];
        if (seen > a.taps - 1) seen = (int)a.taps - 1;
      }
      rows[i] = (int8_t)seen;
    }
    __syncthreads();
  }
};

// N channels from c on.
template <int N> struct Convolution {
  float weight[most_taps][N];  // of the row itself, the row before, ...
  float bias[N];

  template <class Args> __device__ Convolution(const Args& a, int64_t c) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float* const w = a.weight + (c + i) * a.taps;
      bias[i] = a.bias[c + i];
      if (a.taps == 4 && in_fours(a.weight)) {
        const float4 four = *reinterpret_cast<const float4*>(w);
        weight[0][i] = four.w, weight[1][i] = four.z, weight[2][i] = four.y, weight[3][i] = four.x;
      } else
#pragma unroll
        for (int back = 0; back < most_taps; back++) weight[back][i] = back < a.taps ? w[a.taps - 1 - back] : 0.0f;
    }
  }
  // u of the last of these rows.
  template <int Rows> __device__ float of(const float (&x)[Rows][N], int row, int i, int seen) const {
    float u = fmaf(weight[0][i], x[row][i], bias[i]);
#pragma unroll
    for (int back = 1; back < most_taps; back++)
      if (back <= seen) u = fmaf(weight[back][i], x[row - back][i], u);
    return u;
  }
};

// x of the rows before a strip.
template <int N, int Rows, class Act> __device__ void load_before(float (&x)[Rows][N], const Column<Act, N>& column, const Strip& strip) {
#pragma unroll
  for (uint32_t k = 0; k < before; k++) {
    const Run<Act, N> run = column.get(k < strip.first ? strip.first : k, strip);
#pragma unroll
    for (int i = 0; i < N; i++) x[k][i] = run.get(i);
  }
}
// The last of some rows become those before the next.
template <int N, int Rows> __device__ void move_on(float (&x)[Rows][N]) {
#pragma unroll
  for (int k = 0; k < before; k++)
#pragma unroll
    for (int i = 0; i < N; i++) x[k][i] = x[Rows - before + k][i];
}

template <int N, class Act> __device__ void walk(const conv_silu_args<Act>& a, const Seen& seen, int64_t c, int number) {
  const Strip strip(a.rows, number);
  if (c >= a.channels || strip.empty()) return;
  const Column<Act, N> from(a.projection, a.width, strip, a.offset + c), to(a.y, a.channels, strip, c);
  const Convolution<N> convolution(a, c);
  float x[before + rows_ahead][N];
  load_before(x, from, strip);
#pragma unroll 1
  for (uint32_t row = before; row < before + strip_rows; row += rows_ahead) {
    Run<Act, N> ahead[rows_ahead];
    from.get(row, strip, ahead);
#pragma unroll
    for (int k = 0; k < rows_ahead; k++) {
      const int visible = seen.of(number, row + k);
      float y[N];
#pragma unroll
      for (int i = 0; i < N; i++) {
        x[before + k][i] = ahead[k].get(i);
        const float u = convolution.of(x, before + k, i, visible);
        y[i] = u * sigmoid(u);
      }
      if (row + k <= strip.last) *to.at(row + k) = Run<Act, N>::of(y);
    }
    move_on(x);
  }
}

// u of row r for channel c, of any number of taps.
template <class Args> __device__ float convolved(const Args& a, int64_t r, int64_t c) {
  const int64_t seen = position_of(a, r) - a.starts[r];
  float u = a.bias[c];
  for (int64_t j = 0; j < a.taps; j++) {
    const int64_t back = a.taps - 1 - j;
    if (back <= seen) u = fmaf(a.weight[c * a.taps + j], load(a.projection + (r - back) * a.width + a.offset + c), u);
  }
  return u;
}

template <class Act> __device__ void conv_silu_rows(const conv_silu_args<Act>& a, void*) {
  const int64_t c = blockIdx.y * (int64_t)block_channels, begin = blockIdx.x * (int64_t)block_rows;
  if (a.taps > most_taps) {
    if (c + threadIdx.x >= a.channels) return;
    for (int64_t r = begin; r < begin + block_rows && r < a.rows; r++) {
      const float u = convolved(a, r, c + threadIdx.x);
      store(a.y + r * a.channels + c + threadIdx.x, u * sigmoid(u));
    }
    return;
  }
  __shared__ Seen seen;
  seen.fill(a);
  const int lane = threadIdx.x % 32, strip = threadIdx.x / 32;
  if (in_runs(a, a.projection, (const Act*)a.y)) walk<4>(a, seen, c + 4 * lane, strip);
  else for (int part = 0; part < block_channels; part += 32) walk<1>(a, seen, c + part + lane, strip);
}
EXPORT_CUDA_ACT_ENTRY(conv_silu, rows, 128, 8)

// dbias of a block's channels, then dweight of the row itself, the row before, ...
struct Sums {
  float of[strips][1 + most_taps][block_channels];
};

// What a lane of the backward pass has on its way down.
template <class Act, int N> struct Walk {
  const Strip strip;
  const Column<Act, N> x, dy, dx;
  const Convolution<N> convolution;
  Run<Act, N> xs[rows_ahead], dys[rows_ahead];  // of the rows that come next
  float rows[before + rows_ahead][N];           // of x
  float unfinished[most_taps][N] = {};  // dx of the row, the row before, ...
  float sums[1 + most_taps][N] = {};

  __device__ Walk(const conv_silu_backward_args<Act>& a, const Strip& strip, int64_t c)
      : strip(strip),
        x(a.projection, a.width, strip, a.offset + c),
        dy(a.dy, a.channels, strip, c),
        dx(a.dprojection, a.width, strip, a.offset + c),
        convolution(a, c) {
    load_before(rows, x, strip);
    x.get(before, strip, xs), dy.get(before, strip, dys);
  }

  // The next rows, from `row` on, which are the strip's own or those after it.
  template <int Count, bool Own> __device__ void pass(const Seen& seen, int number, uint32_t row) {
    Run<Act, N> next_xs[rows_ahead], next_dys[rows_ahead];
    if (Own) x.get(row + Count, strip, next_xs), dy.get(row + Count, strip, next_dys);
#pragma unroll
    for (int k = 0; k < Count; k++) {
      const int visible = seen.of(number, row + k);
      const uint32_t complete = row + k - before;
#pragma unroll
      for (int i = 0; i < N; i++) {
        rows[before + k][i] = xs[k].get(i);
        const float u = convolution.of(rows, before + k, i, visible), s = sigmoid(u);
        const float du = dys[k].get(i) * s * fmaf(u, 1.0f - s, 1.0f);
        unfinished[0][i] = convolution.weight[0][i] * du;
#pragma unroll
        for (int back = 0; back < most_taps; back++)
          if (back <= visible) {
            if (back > 0) unfinished[back][i] = fmaf(convolution.weight[back][i], du, unfinished[back][i]);
            if (Own) sums[1 + back][i] = fmaf(du, rows[before + k - back][i], sums[1 + back][i]);
          }
        if (Own && visible >= 0) sums[0][i] += du;
      }
      if (complete >= before && complete <= strip.last) *dx.at(complete) = Run<Act, N>::of(unfinished[before]);
#pragma unroll
      for (int i = 0; i < N; i++)
#pragma unroll
        for (int back = before; back > 0; back--) unfinished[back][i] = unfinished[back - 1][i];
      if (Own) xs[k] = next_xs[k], dys[k] = next_dys[k];
    }
    move_on(rows);
  }
};

template <int N, class Act> __device__ void walk(const conv_silu_backward_args<Act>& a, const Seen& seen, Sums& sums, int64_t first, int64_t c, int number) {
  const Strip strip(a.rows, number);
  float zero[1 + most_taps][N] = {};
  const auto put = [&](const float (&values)[1 + most_taps][N]) {
#pragma unroll
    for (int j = 0; j <= most_taps; j++)
#pragma unroll
      for (int i = 0; i < N; i++) sums.of[number][j][c - first + i] = values[j][i];
  };
  if (c >= a.channels || strip.empty()) return put(zero);
  Walk<Act, N> walk(a, strip, c);
#pragma unroll 1
  for (uint32_t row = before; row < before + strip_rows; row += rows_ahead) walk.template pass<rows_ahead, true>(seen, number, row);
  walk.template pass<before, false>(seen, number, before + strip_rows);
  put(walk.sums);
}

// Channel c, of any number of taps.
template <class Act> __device__ void backward_by_element(const conv_silu_backward_args<Act>& a, float* sums, int64_t c) {
  const int64_t begin = blockIdx.x * (int64_t)block_rows, end = begin + block_rows < a.rows ? begin + block_rows : a.rows;
  const auto du = [&](int64_t r) { 
    const float u = convolved(a, r, c), s = sigmoid(u);
    return load(a.dy + r * a.channels + c) * s * fmaf(u, 1.0f - s, 1.0f);
  };
  for (int64_t j = 0; j <= a.taps; j++) sums[j * a.channels] = 0;
  for (int64_t r = begin; r < end; r++) {
    const float d = du(r);
    sums[0] += d;
    for (int64_t back = 0; back < a.taps && back <= position_of(a, r) - a.starts[r]; back++) {
      float& sum = sums[(1 + back) * a.channels];
      sum = fmaf(d, load(a.projection + (r - back) * a.width + a.offset + c), sum);
    }
    float dx = 0;
    for (int64_t ahead = 0; ahead < a.taps && position_of(a, r) + ahead < a.sequence; ahead++)
      if (a.starts[r + ahead] <= position_of(a, r)) dx = fmaf(a.weight[(c + 1) * a.taps - 1 - ahead], du(r + ahead), dx);
    store(a.dprojection + r * a.width + a.offset + c, dx);
  }
}

// The workspace holds, per block of rows, a row of dbias and a row of dweight for each tap, the last first.
template <class Act> __device__ void conv_silu_backward_rows(const conv_silu_backward_args<Act>& a, void* workspace) {
  const int64_t first = blockIdx.y * (int64_t)block_channels, c = first + threadIdx.x;
  float* const to = static_cast<float*>(workspace) + blockIdx.x * (a.taps + 1) * a.channels + c;
  if (a.taps > most_taps) {
    if (c < a.channels) backward_by_element(a, to, c);
    return;
  }
  __shared__ Seen seen;
  __shared__ Sums sums;
  seen.fill(a);
  const int lane = threadIdx.x % 32, strip = threadIdx.x / 32;
  if (in_runs(a, a.projection, a.dy, (const Act*)a.dprojection)) walk<4>(a, seen, sums, first, first + 4 * lane, strip);
  else for (int part = 0; part < block_channels; part += 32) walk<1>(a, seen, sums, first, first + part + lane, strip);
  __syncthreads();
  if (c >= a.channels) return;
  for (int64_t j = 0; j <= a.taps; j++) {
    float sum = sums.of[0][j][threadIdx.x];
    for (int s = 1; s < strips; s++) sum += sums.of[s][j][threadIdx.x];
    to[j * a.channels] = sum;
  }
}
EXPORT_CUDA_ACT_ENTRY(conv_silu_backward, rows, 128)

template <class Act> __device__ void conv_silu_backward_parameters(const conv_silu_backward_args<Act>& a, void* workspace) {
  each_column_sum(static_cast<const float*>(workspace), (a.rows + block_rows - 1) / block_rows, (a.taps + 1) * a.channels,
                  [&](int64_t i, float sum) {
                    const int64_t j = i / a.channels, c = i % a.channels;
                    if (j == 0) a.dbias[c] += sum;
                    else a.dweight[(c + 1) * a.taps - j] += sum;
                  });
}
EXPORT_CUDA_ACT_ENTRY(conv_silu_backward, parameters, 256)
