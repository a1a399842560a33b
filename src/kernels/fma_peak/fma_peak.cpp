// The chains of fma_peak.ts: 12 vectors at a time, enough to hide the latency of the units and few enough for 16 registers. Where the level has no
// fused operation, a multiplication and an addition.
#include "gemm_panel.h"

static void run_fma_peak(const fma_peak_args& g) {
  constexpr int chains = 12, group = chains * vec_lanes;
  static_assert(192 % group == 0);
  parallel_for(g.tasks, [&](int64_t task) {
    for (int first = 0; first < 192; first += group) {
      vec acc[chains];
#pragma GCC unroll 12
      for (int i = 0; i < chains; i++) acc[i] = vec_set(0);
      vec one = vec_set(1);
      for (int32_t l = 0; l < g.iterations; l++) {
#if defined(__GNUC__) && defined(__x86_64__)
        // Keeps the product of ones from being computed once.
        __asm__("" : "+x"(one));
#endif
#pragma GCC unroll 12
        for (int i = 0; i < chains; i++) acc[i] = vec_fma(one, one, acc[i]);
      }
#pragma GCC unroll 12
      for (int i = 0; i < chains; i++) vec_store(g.sums + task * 192 + first + i * vec_lanes, acc[i]);
    }
  });
}
EXPORT(fma_peak)
