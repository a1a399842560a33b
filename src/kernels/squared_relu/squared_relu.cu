// Forward and backward of squared_relu.ts: one pass over memory each.
#include "cuda.h"

__device__ inline float positive_part(float x) { return x < 0.0f ? 0.0f : x; }

template <class Act> __device__ void squared_relu(const squared_relu_args<Act>& a) {
  map_elements(a.n, a.y, [](float x) { return positive_part(x) * positive_part(x); }, a.x);
}
EXPORT_CUDA_ACT(squared_relu)

template <class Act> __device__ void squared_relu_backward(const squared_relu_backward_args<Act>& a) {
  const auto slope = [](float x, float dy) { return 2.0f * positive_part(x) * dy; };
  if (a.accumulate) map_elements(a.n, a.dx, [&](float x, float dy, float dx) { return dx + slope(x, dy); }, a.x, a.dy, (const Act*)a.dx);
  else map_elements(a.n, a.dx, slope, a.x, a.dy);
}
EXPORT_CUDA_ACT(squared_relu_backward)
