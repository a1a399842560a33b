// cross_entropy.ts. A row is read twice while it is in cache. Its sum is kept in 16 lanes, so that every level adds in the same order.
#include <limits>
#include "cpu.h"
#include "elementary.h"
#include "lanes_cpu.h"

namespace {

constexpr int64_t lanes = 16;

// In the level's own vectors, because compilers do not make vectors of a maximum that keeps the order of its operands.
float largest_of(const float* row, int64_t n) {
  constexpr float least = -std::numeric_limits<float>::infinity();
  constexpr int width = Lanes::width;
  Lanes::Real most[2] = {Lanes::real(least), Lanes::real(least)};
  int64_t c = 0;
  for (; c + 2 * width <= n; c += 2 * width)
    for (int i = 0; i < 2; i++) {
      const Lanes::Real x = Lanes::load(row + c + i * width);
      most[i] = Lanes::select(Lanes::below(most[i], x), x, most[i]);
    }
  float result = least;
  for (; c < n; c++) result = row[c] > result ? row[c] : result;
  for (const Lanes::Real& some : most)
    for (int l = 0; l < width; l++) result = some[l] > result ? some[l] : result;
  return result;
}

// e = exp(row - largest), which may replace the row; returns the sum.
template <bool keep> double exponentials(float* row, int64_t n, float largest) {
  float sums[lanes] = {};
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes)
    for (int64_t l = 0; l < lanes; l++) {
      const float e = fast_exp(row[c + l] - largest);
      sums[l] += e;
      if (keep) row[c + l] = e;
    }
  double sum = 0;
  for (; c < n; c++) {
    const float e = fast_exp(row[c] - largest);
    sum += e;
    if (keep) row[c] = e;
  }
  for (float s : sums) sum += s;
  return sum;
}

}  // namespace

static void run_cross_entropy(const cross_entropy_args& a) {
  const float scale = a.scale ? *a.scale : 1.0f;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  parallel_rows(a.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float* row = a.logits + r * a.vocab;
      bf16* const rounded = a.rounded ? a.rounded + r * a.vocab : nullptr;
      const int64_t target = a.targets[r];
      if (target < 0 || target >= a.vocab) {
        const float value = target == -1 ? 0.0f : nan;
        a.losses[r] = value;
        for (int64_t c = 0; a.gradient && c < a.vocab; c++) {
          if (rounded) store(rounded + c, value);
          else row[c] = value;
        }
        continue;
      }
      const float largest = largest_of(row, a.vocab);
      const double wanted = row[target];
      const double sum =
          a.gradient && !rounded ? exponentials<true>(row, a.vocab, largest) : exponentials<false>(row, a.vocab, largest);
      a.losses[r] = (float)(std::log(sum) + largest - wanted);
      if (!a.gradient) continue;
      const float factor = (float)(scale / sum);
      if (rounded) {
        for (int64_t c = 0; c < a.vocab; c++) store(rounded + c, fast_exp(row[c] - largest) * factor);
        store(rounded + target, (float)((fast_exp((float)wanted - largest) / sum - 1.0) * scale));
        continue;
      }
      const float at_target = row[target];
      for (int64_t c = 0; c < a.vocab; c++) row[c] *= factor;
      row[target] = (float)((at_target / sum - 1.0) * scale);
    }
  });
}
EXPORT(cross_entropy)

static void run_loss_sum(const loss_sum_args& a) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t r = 0; r < a.rows; r++) {
    sum += a.losses[r];
    count += a.targets[r] != -1;
  }
  a.loss[0] = (float)(a.loss[0] + sum);
  a.loss[1] = (float)(a.loss[1] + (double)count);
}
EXPORT(loss_sum)
