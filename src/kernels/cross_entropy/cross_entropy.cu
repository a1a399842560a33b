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

// The running maximum of some logits and the sum of their exponentials relative to it.
struct Running {
  float most = float_of(0xff800000u), sum = 0;
  __device__ void add(float x) {
    if (x > most) {
      sum = sum * expf(most - x) + 1.0f;
      most = x;
    } else if (x != float_of(0xff800000u)) sum += expf(x - most);
  }
  __device__ void add(const Eight& x) {
    float raised = most;
#pragma unroll
    for (int i = 0; i < 8; i++) raised = fmaxf(raised, x.v[i]);
    if (raised == float_of(0xff800000u)) return;
    sum *= expf(most - raised);
    most = raised;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += expf(x.v[i] - raised);
  }
};

// row[c] to where the gradient goes.
__device__ inline void put_gradient(const cross_entropy_args& a, int64_t at, float value) {
  if (a.rounded) store(a.rounded + at, value);
  else a.logits[at] = value;
}

__device__ void run_cross_entropy_rows(const cross_entropy_args& a, void*) {
  __shared__ float values[256];
  const float scale = a.scale ? *a.scale : 1.0f;
  const int64_t begin = blockIdx.x * a.vocab, target = a.targets[blockIdx.x];
  float* const row = a.logits + begin;
  if (target < 0 || target >= a.vocab) {
    const float value = target == -1 ? 0.0f : float_of(0x7fc00000u);
    if (threadIdx.x == 0) a.losses[blockIdx.x] = value;
    if (a.gradient) BLOCK_LOOP(c, a.vocab) put_gradient(a, begin + c, value);
    return;
  }
  const bool eights = a.vocab % 8 == 0 && in_sixteens(a.logits, a.rounded);
  Running seen;
  if (eights) {
#pragma unroll 2
    BLOCK_LOOP(u, a.vocab / 8) seen.add(load_eight((const float*)row + 8 * u));
  } else BLOCK_LOOP(c, a.vocab) seen.add(row[c]);
  const float largest = over_block(seen.most, values, [](float x, float y) { return fmaxf(x, y); });
  const float total = over_block(seen.sum * expf(seen.most - largest), values, [](float x, float y) { return x + y; });
  const float wanted = row[target];
  __syncthreads();
  if (threadIdx.x == 0) a.losses[blockIdx.x] = (float)(log((double)total) + (double)largest - (double)wanted);
  if (!a.gradient) return;
  const float factor = scale / total, at_target = (float)((exp((double)(wanted - largest)) / (double)total - 1.0) * (double)scale);
  if (!eights) {
    BLOCK_LOOP(c, a.vocab) put_gradient(a, begin + c, c == target ? at_target : expf(row[c] - largest) * factor);
    return;
  }
#pragma unroll 2
  BLOCK_LOOP(u, a.vocab / 8) {
    Eight x = load_eight((const float*)row + 8 * u);
#pragma unroll
    for (int i = 0; i < 8; i++) x.v[i] = 8 * u + i == target ? at_target : expf(x.v[i] - largest) * factor;
    if (a.rounded) store_eight(a.rounded + begin + 8 * u, x);
    else store_eight(row + 8 * u, x);
  }
}
EXPORT_CUDA_ENTRY(cross_entropy, rows, 256)
