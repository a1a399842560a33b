// Forward and backward of squared_relu.ts: one pass over memory each.
#include "cpu.h"

template <class Act> static void squared_relu(const squared_relu_args<Act>& a) {
  parallel_rows(a.n, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float x = load(a.x + i);
      const float positive = x < 0.0f ? 0.0f : x;
      store(a.y + i, positive * positive);
    }
  });
}
EXPORT_ACT(squared_relu)

template <class Act> static void squared_relu_backward(const squared_relu_backward_args<Act>& a) {
  parallel_rows(a.n, 1 << 14, [&](int64_t begin, int64_t end) {
    const auto value = [&](int64_t i) {
      const float x = load(a.x + i);
      const float positive = x < 0.0f ? 0.0f : x;
      return 2.0f * positive * load(a.dy + i);
    };
    if (a.accumulate)
      for (int64_t i = begin; i < end; i++) store(a.dx + i, load(a.dx + i) + value(i));
    else
      for (int64_t i = begin; i < end; i++) store(a.dx + i, value(i));
  });
}
EXPORT_ACT(squared_relu_backward)
