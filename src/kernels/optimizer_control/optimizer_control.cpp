// optimizer_control.ts: a few numbers, on one thread.
#include "cpu.h"

static void run_optimizer_control(const optimizer_control_args& a) {
  double squares = 0, infinite = 0, zero = 0;
  for (int64_t s = 0; s < a.segments; s++) {
    squares += a.statistics[4 * s];
    infinite += a.statistics[4 * s + 2];
    zero += a.statistics[4 * s + 3] == 0.0f;
  }
  bool hidden = false;
  for (int64_t i = 0; i < a.images; i++) hidden |= a.operands[2 * i + 1] != 0.0f;
  const double t = a.schedule[1], norm = std::sqrt(squares);
  const double factor = a.clip > 0 ? a.clip / (norm + 1e-6) : 1.0;
  a.control[0] = a.schedule[0];
  a.control[1] = (float)-std::expm1(t * std::log((double)a.beta1));
  a.control[2] = (float)-std::expm1(t * std::log((double)a.beta2));
  a.control[3] = (float)(factor < 1 ? factor : 1);
  a.control[4] = (float)norm;
  a.control[5] = infinite == 0 && zero == 0 && !hidden && std::isfinite((float)norm) ? 1.0f : 0.0f;
  a.control[6] = (float)infinite;
  a.control[7] = (float)zero;
}
EXPORT(optimizer_control)
