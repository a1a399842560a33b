// Forward and backward of squared_relu.ts: one pass over memory each.
#include "cuda.h"

template <class Act> __device__ void squared_relu(const squared_relu_args<Act>& a) {
  GRID_LOOP(i, a.n) {
    const float x = load(a.x + i);
    const float positive = x < 0.0f ? 0.0f : x;
    store(a.y + i, positive * positive);
  }
}
EXPORT_CUDA_ACT(squared_relu)

template <class Act> __device__ void squared_relu_backward(const squared_relu_backward_args<Act>& a) {
  GRID_LOOP(i, a.n) {
    const float x = load(a.x + i);
    const float positive = x < 0.0f ? 0.0f : x;
    const float value = 2.0f * positive * load(a.dy + i);
    store(a.dx + i, a.accumulate ? load(a.dx + i) + value : value);
  }
}
EXPORT_CUDA_ACT(squared_relu_backward)
