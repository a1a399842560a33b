// adamw.ts: one pass over memory, in runs of elements that share their flags.
#include "cpu.h"

namespace {

// adamwFlags of adamw.ts.
constexpr int decays = 1, cleared = 2;
constexpr uint32_t uncopied = 0xffffffffu;

struct Step {
  float rate, inverse1, inverse2, factor, beta1, beta2, eps;
};

void update(float* __restrict w, float* __restrict m, float* __restrict v, const float* __restrict g, int64_t n,
            float decay, const Step s) {
  const float rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2;
  for (int64_t i = 0; i < n; i++) {
    const float x = g[i] * s.factor;
    m[i] = s.beta1 * m[i] + rest1 * x;
    v[i] = s.beta2 * v[i] + rest2 * x * x;
    const float step = m[i] * s.inverse1 / (std::sqrt(v[i] * s.inverse2) + s.eps);
    w[i] -= s.rate * (step + decay * w[i]);
  }
}

}  // namespace

static void run_adamw(const adamw_args& a) {
  if (a.control[5] == 0.0f) return;
  const Step step{a.control[0], 1.0f / a.control[1], 1.0f / a.control[2], a.control[3], a.beta1, a.beta2, a.eps};
  parallel_rows(a.n / 16, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t from = begin, to; from < end; from = to) {
      for (to = from + 1; to < end && a.flags[to] == a.flags[from];) to++;
      const int64_t at = from * 16, n = (to - from) * 16;
      update(a.w + at, a.m + at, a.v + at, a.g + at, n, a.flags[from] & decays ? a.weight_decay : 0.0f, step);
      if (a.flags[from] & cleared) memset(a.g + at, 0, (size_t)n * 4);
      for (int64_t group = from; a.places && group < to; group++)
        if (a.places[group] != uncopied)
          for (int64_t l = 0; l < 16; l++) store(a.rounded + (int64_t)a.places[group] * 16 + l, a.w[group * 16 + l]);
    }
  });
}
EXPORT(adamw)
