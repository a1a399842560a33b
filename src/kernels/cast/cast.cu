// cast.ts.
#include "cuda.h"

template <class To, class From> __device__ void cast_elements(void* to, const void* from, int64_t count) {
  map_elements(count, static_cast<To*>(to), [](float x) { return x; }, static_cast<const From*>(from));
}

__device__ void run_cast(const cast_args& a) {
  if (a.x_is_bf16 && a.y_is_bf16) GRID_LOOP(i, a.size) static_cast<bf16*>(a.y)[i] = static_cast<const bf16*>(a.x)[i];
  else if (a.x_is_bf16) cast_elements<float, bf16>(a.y, a.x, a.size);
  else if (a.y_is_bf16) cast_elements<bf16, float>(a.y, a.x, a.size);
  else cast_elements<float, float>(a.y, a.x, a.size);
}
EXPORT_CUDA(cast)
