// cast.ts.
#include "cuda.h"

__device__ void run_cast(const cast_args& a) {
  GRID_LOOP(i, a.size) {
    if (a.x_is_bf16 && a.y_is_bf16) {
      static_cast<bf16*>(a.y)[i] = static_cast<const bf16*>(a.x)[i];
      continue;
    }
    const float x = a.x_is_bf16 ? load(static_cast<const bf16*>(a.x) + i) : static_cast<const float*>(a.x)[i];
    if (a.y_is_bf16) store(static_cast<bf16*>(a.y) + i, x);
    else static_cast<float*>(a.y)[i] = x;
  }
}
EXPORT_CUDA(cast)
