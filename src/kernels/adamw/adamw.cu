// adamw.ts: one pass over memory; every operation rounded, in the order of the reference.
#include "cuda.h"

__device__ void run_adamw(const adamw_args& a) {
  if (a.control[5] == 0.0f) return;
  const float rate = a.control[0], inverse1 = 1.0f / a.control[1], inverse2 = 1.0f / a.control[2], factor = a.control[3];
  const float rest1 = 1.0f - a.beta1, rest2 = 1.0f - a.beta2;
  GRID_LOOP(i, a.n) {
    const float x = a.g[i] * factor;
    const float m = a.beta1 * a.m[i] + rest1 * x;
    const float v = a.beta2 * a.v[i] + rest2 * x * x;
    a.m[i] = m;
    a.v[i] = v;
    const float w = a.w[i];
    const float step = m * inverse1 / (sqrtf(v * inverse2) + a.eps);
    const float shrink = a.decay[i >> 4] ? a.weight_decay * w : 0.0f;
    a.w[i] = w - rate * (step + shrink);
    if (a.clear) a.g[i] = 0.0f;
  }
}
EXPORT_CUDA(adamw)
