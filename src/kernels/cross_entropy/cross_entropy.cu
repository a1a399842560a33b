// cross_entropy.ts. A block of threads has a row. Each thread goes over its share once, with a running maximum and a sum that is rescaled when
// the maximum rises; the threads' sums are rescaled to the row's maximum and added as a tree.
#include "cuda.h"

// Of all 256 threads, as a tree; all of them get it.
template <class Combine> __device__ float over_block(float x, float (&values)[256], const Combine& combine) {
  __syncthreads();
  values[threadIdx.x] = x;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) values[threadIdx.x] = combine(values[threadIdx.x], values[threadIdx.x + half]);
  }
  __syncthreads();
  return values[0];
}

__device__ void run_cross_entropy_rows(const cross_entropy_args& a, void*) {
  __shared__ float values[256];
  const float minus_infinity = float_of(0xff800000u), scale = a.scale ? *a.scale : 1.0f;
  float* const row = a.logits + blockIdx.x * a.vocab;
  const int64_t target = a.targets[blockIdx.x];
  if (target < 0 || target >= a.vocab) {
    const float value = target == -1 ? 0.0f : float_of(0x7fc00000u);
    if (threadIdx.x == 0) a.losses[blockIdx.x] = value;
    if (a.gradient) BLOCK_LOOP(c, a.vocab) row[c] = value;
    return;
  }
  float most = minus_infinity, sum = 0;
  BLOCK_LOOP(c, a.vocab) {
    const float x = row[c];
    if (x > most) {
      sum = sum * expf(most - x) + 1.0f;
      most = x;
    } else if (x != minus_infinity) sum += expf(x - most);
  }
  const float largest = over_block(most, values, [](float x, float y) { return fmaxf(x, y); });
  const float total = over_block(sum * expf(most - largest), values, [](float x, float y) { return x + y; });
  const float wanted = row[target];
  __syncthreads();
  if (threadIdx.x == 0) a.losses[blockIdx.x] = (float)(log((double)total) + (double)largest - (double)wanted);
  if (!a.gradient) return;
  const float factor = scale / total;
  BLOCK_LOOP(c, a.vocab) {
    const float e = expf(row[c] - largest);
    row[c] = c == target ? (float)(((double)e / (double)total - 1.0) * (double)scale) : e * factor;
  }
}
EXPORT_CUDA_ENTRY(cross_entropy, rows, 256)
