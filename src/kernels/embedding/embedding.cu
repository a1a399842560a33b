// Forward and backward of embedding.ts. The backward pass sorts the rows by token, keeping their order; then every thread adds the rows of one
// token in one column, so no two threads write the same element.
#include "cuda.h"

template <class Act> __device__ void embedding(const embedding_args<Act>& a) {
  GRID_LOOP(i, a.rows * a.cols) {
    const int64_t r = i / a.cols, token = a.tokens[r];
    const bool known = token >= 0 && token < a.vocab;
    store(a.y + i, known ? a.w[token * a.cols + i % a.cols] : float_of(0x7fc00000u));
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

// One block: counts the rows of every token, then their running sum.
template <class Act> __device__ void embedding_backward_count(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  __shared__ int32_t sums[1024];
  __shared__ int32_t carried;
  BLOCK_LOOP(t, a.vocab + 1) buckets.begins[t] = 0;
  if (threadIdx.x == 0) carried = 0;
  __syncthreads();
  BLOCK_LOOP(r, a.rows) {
    const int64_t token = a.tokens[r];
    if (token >= 0 && token < a.vocab) atomicAdd(&buckets.begins[token + 1], 1);
  }
  __syncthreads();
  for (int64_t start = 0; start <= a.vocab; start += blockDim.x) {
    const int64_t t = start + threadIdx.x;
    sums[threadIdx.x] = t <= a.vocab ? buckets.begins[t] : 0;
    __syncthreads();
    for (int step = 1; step < blockDim.x; step *= 2) {
      const int32_t other = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
      __syncthreads();
      sums[threadIdx.x] += other;
      __syncthreads();
    }
    if (t <= a.vocab) buckets.begins[t] = sums[threadIdx.x] + carried;
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) carried += sums[threadIdx.x];
    __syncthreads();
  }
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, count, 1024)

// One thread a row: its place among the rows of its token is the number of earlier rows of the same token.
template <class Act> __device__ void embedding_backward_sort(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  __shared__ int32_t tokens[256];
  const int64_t r = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  const int32_t token = r < a.rows ? a.tokens[r] : -1;
  int32_t place = 0;
  for (int64_t start = 0; start < a.rows && start <= blockIdx.x * (int64_t)blockDim.x; start += blockDim.x) {
    __syncthreads();
    if (start + threadIdx.x < a.rows) tokens[threadIdx.x] = a.tokens[start + threadIdx.x];
    __syncthreads();
    const int64_t count = r - start < blockDim.x ? r - start : blockDim.x;
    for (int i = 0; i < count; i++) place += tokens[i] == token;
  }
  if (token >= 0 && token < a.vocab) buckets.rows_of[buckets.begins[token] + place] = (int32_t)r;
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, sort, 256)

// A row of blocks a token.
template <class Act> __device__ void embedding_backward_add(const embedding_backward_args<Act>& a, void* workspace) {
  const Buckets buckets = buckets_of(a, workspace);
  const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (c >= a.cols) return;
  for (int64_t token = blockIdx.y; token < a.vocab; token += gridDim.y) {
    const int32_t begin = buckets.begins[token], end = buckets.begins[token + 1];
    if (begin == end) continue;
    float sum = a.dw[token * a.cols + c];
    for (int32_t i = begin; i < end; i++) sum += load(a.dy + (int64_t)buckets.rows_of[i] * a.cols + c);
    a.dw[token * a.cols + c] = sum;
  }
}
EXPORT_CUDA_ACT_ENTRY(embedding_backward, add, 128)
