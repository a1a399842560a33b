// Forward and backward of gated_norm.ts. A row is one task's work; dw is summed per group of 32 rows, the groups' partial sums in
// order, so that the result does not depend on the number of threads.
#include "cpu.h"
#include "elementary.h"

// Sums in 16 lanes, then over the lanes in order.
template <class Term> static inline double sum_of(int64_t n, const Term& term) {
  float lanes[16] = {};
  int64_t c = 0;
  for (; c + 16 <= n; c += 16)
    for (int l = 0; l < 16; l++) lanes[l] += term(c + l);
  double sum = 0;
  for (; c < n; c++) sum += term(c);
  for (float lane : lanes) sum += lane;
  return sum;
}

template <class Act> static void gated_norm(const gated_norm_args<Act>& a) {
  const int64_t slice = a.cols / a.groups;
  parallel_rows(a.rows, 16, [&](int64_t begin, int64_t end) {
    float* v = static_cast<float*>(scratch(1, slice * 4));
    for (int64_t r = begin; r < end; r++)
      for (int64_t g = 0; g < a.groups; g++) {
        const Act* y = a.y + r * a.cols + g * slice;
        const Act* z = a.projection + r * a.width + g * slice;
        Act* out = a.out + r * a.cols + g * slice;
        const float* w = a.w + g * slice;
#pragma GCC ivdep
        for (int64_t c = 0; c < slice; c++) {
          const float gate = load(z + c);
          v[c] = load(y + c) * gate * fast_sigmoid(gate);
        }
        const double sum = sum_of(slice, [&](int64_t c) { return v[c] * v[c]; });
        const float inverse = (float)(1.0 / std::sqrt(sum / (double)slice + a.eps));
        a.inverse[r * a.groups + g] = inverse;
#pragma GCC ivdep
        for (int64_t c = 0; c < slice; c++) store(out + c, v[c] * inverse * w[c]);
      }
  });
}
EXPORT_ACT(gated_norm)

template <class Act> static void gated_norm_backward(const gated_norm_backward_args<Act>& a) {
  constexpr int64_t block = 32;
  const int64_t slice = a.cols / a.groups, blocks = (a.rows + block - 1) / block;
  float* partial = static_cast<float*>(scratch(0, blocks * a.cols * 4));
  parallel_rows(a.rows, block, [&](int64_t begin, int64_t end) {
    float* gates = static_cast<float*>(scratch(1, slice * 3 * 4));
    float* normalised = gates + slice;
    float* dn = normalised + slice;
    float* sums = partial + begin / block * a.cols;
    memset(sums, 0, a.cols * 4);
    for (int64_t r = begin; r < end; r++)
      for (int64_t g = 0; g < a.groups; g++) {
        const Act* y = a.y + r * a.cols + g * slice;
        const Act* z = a.projection + r * a.width + g * slice;
        const Act* dout = a.dout + r * a.cols + g * slice;
        Act* dy = a.dy + r * a.cols + g * slice;
        Act* dz = a.dprojection + r * a.width + g * slice;
        const float* w = a.w + g * slice;
        float* dw = sums + g * slice;
        const float inverse = a.inverse[r * a.groups + g];
#pragma GCC ivdep
        for (int64_t c = 0; c < slice; c++) {
          const float gate = load(z + c), s = fast_sigmoid(gate), d = load(dout + c);
          gates[c] = s;
          normalised[c] = load(y + c) * gate * s * inverse;
          dn[c] = d * w[c];
          dw[c] += d * normalised[c];
        }
        const float mean = (float)(sum_of(slice, [&](int64_t c) { return dn[c] * normalised[c]; }) / (double)slice);
#pragma GCC ivdep
        for (int64_t c = 0; c < slice; c++) {
          const float gate = load(z + c), s = gates[c], value = load(y + c);
          const float dv = inverse * (dn[c] - normalised[c] * mean);
          store(dz + c, dv * value * s * (1.0f + gate * (1.0f - s)));
          store(dy + c, a.accumulate ? load(dy + c) + dv * gate * s : dv * gate * s);
        }
      }
  });
  parallel_rows(a.cols, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < blocks; b++)
      for (int64_t c = begin; c < end; c++) a.dw[c] += partial[b * a.cols + c];
  });
}
EXPORT_ACT(gated_norm_backward)
