// The chains of fma_peak.ts: 12 vectors at a time, enough to hide the latency of the units and few enough for 16 registers. Where the level has no
// fused operation, a multiplication and an addition.
#include "gemm_panel.h"

// Hides where a sum came from: all chains are alike, and a compiler that sees it computes one of them.
inline void keep_apart([[maybe_unused]] vec& x) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(x));
#elif defined(__GNUC__) && defined(__x86_64__)
  __asm__("" : "+x"(x));
#elif defined(__GNUC__) && defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
}

static void run_fma_peak(const fma_peak_args& g) {
  constexpr int chains = 12, group = chains * vec_lanes;
  static_assert(192 % group == 0);
  parallel_for(g.tasks, [&](int64_t task) {
    for (int first = 0; first < 192; first += group) {
      vec acc[chains];
#pragma GCC unroll 12
      for (int i = 0; i < chains; i++) acc[i] = vec_set(0);
      const vec one = vec_set(1);
      for (int32_t l = 0; l < g.iterations; l++) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; i++) {
          acc[i] = vec_fma(one, one, acc[i]);
          keep_apart(acc[i]);
        }
      }
#pragma GCC unroll 12
      for (int i = 0; i < chains; i++) vec_store(g.sums + task * 192 + first + i * vec_lanes, acc[i]);
    }
  });
}
EXPORT(fma_peak)
