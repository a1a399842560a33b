// rope.ts. A task owns some positions and turns them in every sequence, so that an angle's sine and cosine are computed once. Angles are
// reduced to one turn in FP64: late positions keep their accuracy.
#include "cpu.h"

template <class Act> static void rope(const rope_args<Act>& a) {
  constexpr double turn = 6.283185307179586;
  const int64_t half = a.dim / 2, sequences = a.rows / a.sequence;
  const int64_t first = a.first ? a.first[0] : 0;
  double* frequencies = static_cast<double*>(scratch(0, half * 8));
  for (int64_t i = 0; i < half; i++) frequencies[i] = std::pow((double)a.base, -(double)i / (double)half);
  parallel_rows(a.sequence, 16, [&](int64_t begin, int64_t end) {
    float* cos = static_cast<float*>(scratch(1, half * 8));
    float* sin = cos + half;
    for (int64_t t = begin; t < end; t++) {
      for (int64_t i = 0; i < half; i++) {
        const double angle = (double)(first + t) * frequencies[i];
        const float reduced = (float)(angle - turn * std::floor(angle / turn + 0.5));
        cos[i] = std::cos(reduced);
        sin[i] = a.inverse ? -std::sin(reduced) : std::sin(reduced);
      }
      for (int64_t s = 0; s < sequences; s++)
        for (int64_t h = 0; h < a.heads; h++) {
          const int64_t at = ((s * a.sequence + t) * a.heads + h) * a.dim;
          const Act* x = a.x + at;
          Act* y = a.y + at;
          const auto put = [&](int64_t i, float value) { store(y + i, a.accumulate ? load(y + i) + value : value); };
          if (h >= a.rotated)
            for (int64_t i = 0; i < a.dim; i++) put(i, load(x + i));
          else
            for (int64_t i = 0; i < half; i++) {
              const float low = load(x + i), high = load(x + i + half);
              put(i, low * cos[i] - high * sin[i]);
              put(i + half, high * cos[i] + low * sin[i]);
            }
        }
    }
  });
}
EXPORT_ACT(rope)
