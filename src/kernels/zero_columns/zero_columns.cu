// zero_columns.ts
#include "cuda.h"

template <class Act> __device__ void zero_columns(const zero_columns_args<Act>& a) {
  const int64_t count = a.width - a.first;
  GRID_LOOP(i, a.rows * count) store(a.x + i / count * a.width + a.first + i % count, 0.0f);
}
EXPORT_CUDA_ACT(zero_columns)
