// ssd_step.ts. A warp owns one element of a head, whose row of the state its lanes share, and takes the rows in order.
#include "cuda.h"
#include "elementary.h"

template <class Act> __device__ void ssd_step_heads(const ssd_step_args<Act>& a, void*) {
  const int lane = threadIdx.x % 32;
  const int64_t h = blockIdx.y, p = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
  if (p >= a.head_dim) return;
  const int64_t group = h * a.groups / a.heads;
  const float A = -expf(a.aLog[h]);
  float* const s = a.states + (h * a.head_dim + p) * a.state;
  for (int64_t r = 0; r < a.rows; r++) {
    const Act* const row = a.xbc + r * a.channels;
    const Act *const b = row + a.inner + group * a.state, *const c = b + a.groups * a.state;
    const float delta = fast_softplus(load(a.projection + r * a.width + a.offset + h) + a.dtBias[h]);
    const float decay = expf(delta * A), x = load(row + h * a.head_dim + p);
    float sum = 0;
    for (int64_t n = lane; n < a.state; n += 32) {
      s[n] = fmaf(decay, s[n], delta * x * load(b + n));
      sum = fmaf(s[n], load(c + n), sum);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane == 0) store(a.y + r * a.inner + h * a.head_dim + p, fmaf(a.skip[h], x, sum));
  }
}
EXPORT_CUDA_ACT_ENTRY(ssd_step, heads, 256)
