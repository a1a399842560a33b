// adamw.ts: one pass over memory; a group of 16 elements, which share a flag of weight decay, is one vector.
#include "cpu.h"

static void run_adamw(const adamw_args& a) {
  if (a.control[5] == 0.0f) return;
  const float rate = a.control[0], inverse1 = 1.0f / a.control[1], inverse2 = 1.0f / a.control[2], factor = a.control[3];
  const float beta1 = a.beta1, beta2 = a.beta2, rest1 = 1.0f - beta1, rest2 = 1.0f - beta2, eps = a.eps;
  const bool clear = a.clear != 0;
  parallel_rows(a.n / 16, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++) {
      float* __restrict w = a.w + group * 16;
      float* __restrict m = a.m + group * 16;
      float* __restrict v = a.v + group * 16;
      float* __restrict g = a.g + group * 16;
      const float decay = a.decay[group] ? a.weight_decay : 0.0f;
      for (int l = 0; l < 16; l++) {
        const float x = g[l] * factor;
        m[l] = beta1 * m[l] + rest1 * x;
        v[l] = beta2 * v[l] + rest2 * x * x;
        const float step = m[l] * inverse1 / (std::sqrt(v[l] * inverse2) + eps);
        w[l] -= rate * (step + decay * w[l]);
      }
      if (clear)
        for (int l = 0; l < 16; l++) g[l] = 0.0f;
    }
  });
}
EXPORT(adamw)
