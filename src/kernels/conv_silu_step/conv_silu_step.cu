// conv_silu_step.ts. A thread has a channel and takes the rows in order.
#include "cuda.h"

template <class Act> __device__ void conv_silu_step_channels(const conv_silu_step_args<Act>& a, void*) {
  const int64_t c = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (c >= a.channels) return;
  const float* const weight = a.weight + c * a.taps;
  for (int64_t r = 0; r < a.rows; r++) {
    const float own = load(a.projection + r * a.width + a.offset + c);
    float u = fmaf(weight[a.kept], own, a.bias[c]);
    for (int64_t j = 0; j < a.kept; j++) {
      const float seen = load(a.window + j * a.channels + c);
      u = fmaf(weight[j], seen, u);
      if (j > 0) store(a.window + (j - 1) * a.channels + c, seen);
    }
    if (a.kept > 0) store(a.window + (a.kept - 1) * a.channels + c, own);
    store(a.y + r * a.channels + c, u / (1.0f + expf(-u)));
  }
}
EXPORT_CUDA_ACT_ENTRY(conv_silu_step, channels, 128)
