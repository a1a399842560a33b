// rope.ts. First the cosine and sine of every position and frequency, in the workspace; then a block turns the heads of a row. Angles are reduced to
// one turn in FP64: late positions keep their accuracy.
#include "cuda.h"

template <class Act> __device__ void rope_angles(const rope_args<Act>& a, void* workspace) {
  constexpr double turn = 6.283185307179586;
  const int64_t half = a.dim / 2;
  const int64_t first = a.first ? a.first[0] : 0;
  float* const table = static_cast<float*>(workspace);
  GRID_LOOP(i, a.sequence * half) {
    const double angle = (double)(first + i / half) * pow((double)a.base, -(double)(i % half) / (double)half);
    const float reduced = (float)(angle - turn * floor(angle / turn + 0.5));
    table[2 * i] = cosf(reduced);
    table[2 * i + 1] = a.inverse ? -sinf(reduced) : sinf(reduced);
  }
}
EXPORT_CUDA_ACT_ENTRY(rope, angles, 256)

template <class Act> __device__ void rope_turn(const rope_args<Act>& a, void* workspace) {
  const int half = (int)a.dim / 2, rotated = (int)a.rotated * half;
  EACH_BLOCK(r, a.rows) {
    const float* const angles = static_cast<const float*>(workspace) + 2 * (r % a.sequence * half);
    for (int u = threadIdx.x; u < (int)a.heads * half; u += blockDim.x) {
      const int i = u % half;
      const int64_t low = r * a.heads * a.dim + (u - i) * 2 + i;
      const float x = load(a.x + low), z = load(a.x + low + half);
      float first = x, second = z;
      if (u < rotated) {
        const float cos = angles[2 * i], sin = angles[2 * i + 1];
        first = x * cos - z * sin;
        second = z * cos + x * sin;
      }
      store(a.y + low, a.accumulate ? load(a.y + low) + first : first);
      store(a.y + low + half, a.accumulate ? load(a.y + low + half) + second : second);
    }
  }
}
EXPORT_CUDA_ACT_ENTRY(rope, turn, 256)
