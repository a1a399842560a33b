// Forward and backward of embedding.ts. The backward pass sorts the rows by token, keeping their order; then every thread adds the rows of one
// token in two columns, so no two threads write the same element.
#include "cuda.h"

template <class Act> __device__ void embedding(const embedding_args<Act>& a) {
  const auto known = [&](int64_t token) { return token >= 0 && token < a.vocab; };
  const float nan = float_of(0x7fc00000u);
  const int64_t across = a.cols / 8, eights = a.rows * across;
  if (a.cols % 8 == 0 && eights <= 0xffffffff && in_sixteens(a.y, a.w)) {
    GRID_LOOP(u, eights) {
      const int64_t r = (uint32_t)u / (uint32_t)across, token = a.tokens[r];
      Eight row{{nan, nan, nan, nan, nan, nan, nan, nan}};
      if (known(token)) row = load_eight(a.w + token * a.cols + (u - r * across) * 8);
      store_eight(a.y + u * 8, row);
    }
    return;
  }
  GRID_LOOP(i, a.rows * a.cols) {
    const int64_t r = i / a.cols, token = a.tokens[r];
    store(a.y + i, known(token) ? a.w[token * a.cols + i % a.cols] : nan);
  }
}
EXPORT_CUDA_ACT(embedding)

// In the workspace: where the rows of each token begin in `rows_of`, then the rows sorted by token, in order within each.
struct Buckets {
  int32_t *begins, *rows_of;
};
template <class Act> __device__ Buckets buckets_of(const embedding_backward_args<Act>& a, void* workspace) {
  int32_t* const words = static_cast<int32_t*>(workspace);
  return {words, words + a.vocab + 1};
}

// One block: counts the rows of every token, then their running sum, eight tokens a thread at a time.
template <class Act> __device__ void embedding_backward_count(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  const int64_t counts = a.vocab + 1;
  __shared__ int32_t sums[32];
  BLOCK_LOOP(t, counts) buckets.begins[t] = 0;
  __syncthreads();
  BLOCK_LOOP(r, a.rows) {
    const int64_t token = a.tokens[r];
    if (token >= 0 && token < a.vocab) atomicAdd(&buckets.begins[token + 1], 1);
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t carried = 0;
  for (int64_t start = 0; start < counts; start += 8 * blockDim.x) {
    const int64_t first = start + 8 * threadIdx.x;
    int32_t running[8], sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) running[i] = sum += first + i < counts ? buckets.begins[first + i] : 0;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    int32_t before = carried + sum - running[7];
    for (int w = 0; w < blockDim.x / 32; w++) {
      if (w < warp) before += sums[w];
      carried += sums[w];
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (first + i < counts) buckets.begins[first + i] = before + running[i];
    __syncthreads();
  }
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, count, 1024)

// A block has 32 rows, a lane each: the place of a row among those of its token is the number of earlier rows of the same token, which the warps
// count in parts of those rows.
template <class Act> __device__ void embedding_backward_sort(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  __shared__ int32_t places[32][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t first = blockIdx.x * (int64_t)32, r = first + lane;
  const int32_t token = r < a.rows ? a.tokens[r] : -1;
  int32_t place = 0;
#pragma unroll 16
  for (int64_t earlier = warp; earlier < first; earlier += warps) place += a.tokens[earlier] == token;
  places[warp][lane] = place;
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < warps; w++) place += places[w][lane];
  for (int i = 0; i < 32; i++) place += __shfl_sync(0xffffffffu, token, i) == token && i < lane;
  if (token >= 0 && token < a.vocab) buckets.rows_of[buckets.begins[token] + place] = (int32_t)r;
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, sort, 1024)

// Two neighbouring elements as they are in memory.
struct PairF32 {
  float2 x;
  __device__ float2 get() const { return x; }
};
struct PairBf16 {
  uint32_t x;
  __device__ float2 get() const { return make_float2(float_of(x << 16), float_of(x & 0xffff0000u)); }
};
__device__ inline PairF32 pair_of(const float* from) { return {*reinterpret_cast<const float2*>(from)}; }
__device__ inline PairBf16 pair_of(const bf16* from) { return {*reinterpret_cast<const uint32_t*>(from)}; }

static constexpr int at_a_time = 32;  // rows whose loads are under way

// A row of blocks a token.
template <class Act> __device__ void embedding_backward_add(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  const int lane = threadIdx.x % 32;
  const int64_t c = 2 * (blockIdx.x * (int64_t)blockDim.x + threadIdx.x);
  const bool pairs = a.cols % 2 == 0 && in_sixteens(a.dy, a.dw);
  for (int64_t token = blockIdx.y; token < a.vocab; token += gridDim.y) {
    const int32_t begin = buckets.begins[token], end = buckets.begins[token + 1];
    if (begin == end) continue;
    float* const dw = a.dw + token * a.cols + c;
    if (!pairs) {
      for (int i = 0; i < 2 && c + i < a.cols; i++) {
        float sum = dw[i];
        for (int32_t k = begin; k < end; k++) sum += load(a.dy + (int64_t)buckets.rows_of[k] * a.cols + c + i);
        dw[i] = sum;
      }
      continue;
    }
    const bool inside = c < a.cols;
    const int64_t column = inside ? c : 0;
    float2 sum = make_float2(0, 0);
    if (inside) sum = *reinterpret_cast<const float2*>(dw);
    for (int32_t first = begin; first < end; first += at_a_time) {
      const int32_t row = buckets.rows_of[first + lane < end ? first + lane : end - 1];
      decltype(pair_of(a.dy)) dy[at_a_time];
#pragma unroll
      for (int k = 0; k < at_a_time; k++)
        if (first + k < end) dy[k] = pair_of(a.dy + (int64_t)__shfl_sync(0xffffffffu, row, k) * a.cols + column);
#pragma unroll
      for (int k = 0; k < at_a_time; k++)
        if (first + k < end) sum.x += dy[k].get().x, sum.y += dy[k].get().y;
    }
    if (inside) *reinterpret_cast<float2*>(dw) = sum;
  }
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, add, 128)
