// fma_peak.ts: a thread has eight chains, so that it never waits for one.
#include "cuda.h"

__device__ void run_fma_peak(const fma_peak_args& a) {
  constexpr int chains = 8;
  GRID_LOOP(i, a.tasks * 192 / chains) {
    float sums[chains] = {};
    // Taken from memory's address, so that the compiler cannot add the ones up by itself.
    const float one = a.sums == nullptr ? 2.0f : 1.0f;
    for (int32_t t = 0; t < a.iterations; t++)
#pragma unroll
      for (int c = 0; c < chains; c++) sums[c] = fmaf(one, one, sums[c]);
    for (int c = 0; c < chains; c++) a.sums[i * chains + c] = sums[c];
  }
}
EXPORT_CUDA(fma_peak)
