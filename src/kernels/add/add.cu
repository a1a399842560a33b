// add.ts: one pass over memory.
#include "cuda.h"

template <class Act> __device__ void add(const add_args<Act>& a) {
  GRID_LOOP(i, a.n) store(a.y + i, load(a.a + i) + load(a.b + i));
}
EXPORT_CUDA_ACT(add)
