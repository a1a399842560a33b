// Forward and backward of rms_norm.ts. A row is one task's work; dw is summed per group of 32 rows, the groups' partial sums in order,
// so that the result does not depend on the number of threads.
#include "cpu.h"

template <class Act> static void rms_norm(const rms_norm_args<Act>& a) {
  parallel_rows(a.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const Act* x = a.x + r * a.cols;
      int64_t c = 0;
      if (a.branch) {
        const Act* branch = a.branch + r * a.cols;
        Act* sum = a.sum + r * a.cols;
        for (; c < a.cols; c++) store(sum + c, load(x + c) + load(branch + c));
        x = sum;
      }
      float sums[16] = {};
      for (c = 0; c + 16 <= a.cols; c += 16)
        for (int l = 0; l < 16; l++) sums[l] += load(x + c + l) * load(x + c + l);
      double sum = 0;
      for (; c < a.cols; c++) sum += (double)load(x + c) * load(x + c);
      for (float s : sums) sum += s;
      const float inverse = (float)(1.0 / std::sqrt(sum / (double)a.cols + a.eps));
      a.inverse[r] = inverse;
      if (!a.y) continue;
      Act* y = a.y + r * a.cols;
      for (c = 0; c < a.cols; c++) store(y + c, load(x + c) * inverse * a.w[c]);
    }
  });
}
EXPORT_ACT(rms_norm)

template <class Act> static void rms_norm_backward(const rms_norm_backward_args<Act>& a) {
  constexpr int64_t group = 32;
  const int64_t groups = (a.rows + group - 1) / group;
  float* partial = static_cast<float*>(scratch(0, groups * a.cols * 4));
  memset(partial, 0, groups * a.cols * 4);
  parallel_rows(a.rows, group, [&](int64_t begin, int64_t end) {
    float* dw = partial + begin / group * a.cols;
    for (int64_t r = begin; r < end; r++) {
      const Act* x = a.x + r * a.cols;
      const Act* dy = a.dy + r * a.cols;
      Act* dx = a.dx + r * a.cols;
      const float inverse = a.inverse[r];
      float sums[16] = {};
      int64_t c = 0;
      for (; c + 16 <= a.cols; c += 16)
        for (int l = 0; l < 16; l++) sums[l] += load(dy + c + l) * a.w[c + l] * (load(x + c + l) * inverse);
      double dot = 0;
      for (; c < a.cols; c++) dot += load(dy + c) * a.w[c] * (load(x + c) * inverse);
      for (float s : sums) dot += s;
      const float mean = (float)(dot / (double)a.cols);
      for (c = 0; c < a.cols; c++) {
        const float n = load(x + c) * inverse, g = load(dy + c);
        dw[c] += g * n;
        const float value = inverse * (g * a.w[c] - n * mean);
        store(dx + c, a.accumulate ? load(dx + c) + value : value);
      }
    }
  });
  parallel_rows(a.cols, 64, [&](int64_t begin, int64_t end) {
    for (int64_t g = 0; g < groups; g++)
      for (int64_t c = begin; c < end; c++) a.dw[c] += partial[g * a.cols + c];
  });
}
EXPORT_ACT(rms_norm_backward)
