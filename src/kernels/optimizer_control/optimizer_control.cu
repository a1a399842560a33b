// optimizer_control.ts: a few numbers, on one thread; the flags of operands, which are many, on a block.
#include "cuda.h"

__device__ void run_optimizer_control(const optimizer_control_args& a) {
  if (blockIdx.x != 0) return;
  int hidden = 0;
  for (int64_t i = threadIdx.x; i < a.images; i += blockDim.x) hidden |= a.operands[2 * i + 1] != 0.0f;
  hidden = __syncthreads_or(hidden);
  if (threadIdx.x != 0) return;
  double squares = 0, infinite = 0, zero = 0;
  for (int64_t s = 0; s < a.segments; s++) {
    squares += a.statistics[4 * s];
    infinite += a.statistics[4 * s + 2];
    zero += a.statistics[4 * s + 3] == 0.0f;
  }
  const double t = a.schedule[1], norm = sqrt(squares);
  const double factor = a.clip > 0 ? a.clip / (norm + 1e-6) : 1.0;
  a.control[0] = a.schedule[0];
  a.control[1] = (float)-expm1(t * log((double)a.beta1));
  a.control[2] = (float)-expm1(t * log((double)a.beta2));
  a.control[3] = (float)(factor < 1 ? factor : 1);
  a.control[4] = (float)norm;
  a.control[5] = infinite == 0 && zero == 0 && !hidden && isfinite((float)norm) ? 1.0f : 0.0f;
  a.control[6] = (float)infinite;
  a.control[7] = (float)zero;
}
EXPORT_CUDA(optimizer_control)
