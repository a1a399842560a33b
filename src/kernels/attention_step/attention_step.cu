// attention_step.ts. A block owns one key head, with its slots of the cache, and takes the rows in order. Each of its eight warps goes over every
// eighth slot with a running maximum, sum and output; the eight are joined in order.
#include "cuda.h"

static constexpr int warps = 8;
// Elements of a head that a lane has, every 32nd of them.
static constexpr int per_lane = 8;

template <class Act> __device__ void attention_step_heads(const attention_step_args<Act>& a, void*) {
  __shared__ float largest_of[warps], total_of[warps], sums_of[warps][32 * per_lane];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t head = blockIdx.x, kv_heads = a.pairs / 2, group = a.heads / kv_heads, slot = a.pairs * a.dim;
  const Act *const keys = a.cache + head * a.dim, *const values = keys + kv_heads * a.dim;
  const float scale = rsqrtf((float)a.dim);
  for (int64_t r = 0; r < a.rows; r++) {
    const int64_t t = (int64_t)a.position[0] + r, visible = t + 1 < a.capacity ? t + 1 : a.capacity;
    const Act* const row = a.qkv + r * a.columns * a.dim;
    Act* const to = a.cache + t % a.capacity * slot + head * a.dim;
    BLOCK_LOOP(d, a.dim) {
      to[d] = row[(a.heads + head) * a.dim + d];
      to[kv_heads * a.dim + d] = row[(a.heads + kv_heads + head) * a.dim + d];
    }
    __syncthreads();
    for (int64_t h = head * group; h < (head + 1) * group; h++) {
      float q[per_lane], sums[per_lane] = {};
#pragma unroll
      for (int i = 0; i < per_lane; i++) q[i] = i * 32 + lane < a.dim ? load(row + h * a.dim + i * 32 + lane) * scale : 0.0f;
      float largest = -__int_as_float(0x7f800000), total = 0;
      for (int64_t c = warp; c < visible; c += warps) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < per_lane; i++)
          if (i * 32 + lane < a.dim) score = fmaf(q[i], load(keys + c * slot + i * 32 + lane), score);
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) score += __shfl_xor_sync(0xffffffffu, score, distance);
        const float raised = fmaxf(largest, score), shrink = expf(largest - raised), weight = expf(score - raised);
        largest = raised;
        total = fmaf(total, shrink, weight);
#pragma unroll
        for (int i = 0; i < per_lane; i++)
          if (i * 32 + lane < a.dim) sums[i] = fmaf(weight, load(values + c * slot + i * 32 + lane), sums[i] * shrink);
      }
      if (lane == 0) {
        largest_of[warp] = largest;
        total_of[warp] = total;
      }
#pragma unroll
      for (int i = 0; i < per_lane; i++) sums_of[warp][i * 32 + lane] = sums[i];
      __syncthreads();
      float most = largest_of[0];
      for (int w = 1; w < warps; w++) most = fmaxf(most, largest_of[w]);
      BLOCK_LOOP(d, a.dim) {
        float sum = 0, whole = 0;
        for (int w = 0; w < warps; w++) {
          const float share = expf(largest_of[w] - most);
          whole = fmaf(total_of[w], share, whole);
          sum = fmaf(sums_of[w][d], share, sum);
        }
        store(a.y + (r * a.heads + h) * a.dim + d, sum / whole);
      }
      __syncthreads();
    }
  }
}
EXPORT_CUDA_ACT_ENTRY(attention_step, heads, 256)
