// attention_step.ts. A task owns one key head, with its slots of the cache, and takes the rows in order.
#include <algorithm>
#include <limits>
#include "cpu.h"
#include "elementary.h"

constexpr int64_t lanes = 16;

template <class Act> static inline float dot(const float* a, const Act* b, int64_t n) {
  float sums[lanes] = {};
  int64_t d = 0;
  for (; d + lanes <= n; d += lanes)
    for (int64_t i = 0; i < lanes; i++) sums[i] = multiply_add(a[d + i], load(b + d + i), sums[i]);
  float sum = 0;
  for (; d < n; d++) sum = multiply_add(a[d], load(b + d), sum);
  for (float x : sums) sum += x;
  return sum;
}

template <class Act> static void attention_step(const attention_step_args<Act>& a) {
  const int64_t kv_heads = a.pairs / 2, group = a.heads / kv_heads, slot = a.pairs * a.dim;
  const float scale = (float)(1.0 / std::sqrt((double)a.dim));
  parallel_for(kv_heads, [&](int64_t head) {
    const Act *keys = a.cache + head * a.dim, *values = keys + kv_heads * a.dim;
    float* weights = static_cast<float*>(scratch(0, (a.capacity + 2 * a.dim) * 4));
    float *q = weights + a.capacity, *sums = q + a.dim;
    for (int64_t r = 0; r < a.rows; r++) {
      const int64_t t = (int64_t)a.position[0] + r, visible = std::min(t + 1, a.capacity);
      const Act* row = a.qkv + r * a.columns * a.dim;
      Act* to = a.cache + t % a.capacity * slot + head * a.dim;
      memcpy(to, row + (a.heads + head) * a.dim, a.dim * sizeof(Act));
      memcpy(to + kv_heads * a.dim, row + (a.heads + kv_heads + head) * a.dim, a.dim * sizeof(Act));
      for (int64_t h = head * group; h < (head + 1) * group; h++) {
        for (int64_t d = 0; d < a.dim; d++) {
          q[d] = load(row + h * a.dim + d) * scale;
          sums[d] = 0;
        }
        float largest = -std::numeric_limits<float>::infinity();
        for (int64_t c = 0; c < visible; c++) {
          weights[c] = dot(q, keys + c * slot, a.dim);
          largest = std::max(largest, weights[c]);
        }
        float total = 0;
        for (int64_t c = 0; c < visible; c++) {
          const float weight = fast_exp(weights[c] - largest);
          const Act* value = values + c * slot;
          total += weight;
#pragma GCC ivdep
          for (int64_t d = 0; d < a.dim; d++) sums[d] = multiply_add(weight, load(value + d), sums[d]);
        }
        for (int64_t d = 0; d < a.dim; d++) store(a.y + (r * a.heads + h) * a.dim + d, sums[d] / total);
      }
    }
  });
}
EXPORT_ACT(attention_step)
