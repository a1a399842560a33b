// conv_silu_step.ts. A task owns some channels and takes the rows in order.
#include "cpu.h"
#include "elementary.h"

template <class Act> static void conv_silu_step(const conv_silu_step_args<Act>& a) {
  parallel_rows(a.channels, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < a.rows; r++) {
      const Act* x = a.projection + r * a.width + a.offset;
      Act* y = a.y + r * a.channels;
      for (int64_t c = begin; c < end; c++) {
        const float* weight = a.weight + c * a.taps;
        const float own = load(x + c);
        float u = multiply_add(weight[a.kept], own, a.bias[c]);
        for (int64_t j = 0; j < a.kept; j++) {
          const float seen = load(a.window + j * a.channels + c);
          u = multiply_add(weight[j], seen, u);
          if (j > 0) store(a.window + (j - 1) * a.channels + c, seen);
        }
        if (a.kept > 0) store(a.window + (a.kept - 1) * a.channels + c, own);
        store(y + c, u / (1.0f + fast_exp(-u)));
      }
    }
  });
}
EXPORT_ACT(conv_silu_step)
