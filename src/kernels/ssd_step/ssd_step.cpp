// ssd_step.ts. A task owns one head's state and takes the rows in order; sums over the state are those of 16 lanes, then of the lanes.
#include "cpu.h"
#include "elementary.h"

constexpr int64_t lanes = 16;

// s = decay s + factor b; returns the sum of s c.
static inline float advance(int64_t n, float decay, float factor, const float* b, const float* c, float* s) {
  float sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = i; j < i + lanes; j++) {
      s[j] = multiply_add(decay, s[j], factor * b[j]);
      sums[j - i] = multiply_add(s[j], c[j], sums[j - i]);
    }
  float sum = 0;
  for (; i < n; i++) {
    s[i] = multiply_add(decay, s[i], factor * b[i]);
    sum = multiply_add(s[i], c[i], sum);
  }
  for (float x : sums) sum += x;
  return sum;
}

template <class Act> static void ssd_step(const ssd_step_args<Act>& a) {
  const int64_t P = a.head_dim, N = a.state;
  parallel_for(a.heads, [&](int64_t h) {
    const float A = -std::exp(a.aLog[h]);
    const int64_t group = h * a.groups / a.heads;
    float* b = static_cast<float*>(scratch(0, 2 * N * 4));
    float* c = b + N;
    for (int64_t r = 0; r < a.rows; r++) {
      const Act* row = a.xbc + r * a.channels;
      for (int64_t n = 0; n < N; n++) {
        b[n] = load(row + a.inner + group * N + n);
        c[n] = load(row + a.inner + (a.groups + group) * N + n);
      }
      const float delta = fast_softplus(load(a.projection + r * a.width + a.offset + h) + a.dtBias[h]);
      const float decay = fast_exp(delta * A);
      for (int64_t p = 0; p < P; p++) {
        const float x = load(row + h * P + p);
        const float sum = advance(N, decay, delta * x, b, c, a.states + (h * P + p) * N);
        store(a.y + r * a.inner + h * P + p, multiply_add(a.skip[h], x, sum));
      }
    }
  });
}
EXPORT_ACT(ssd_step)
