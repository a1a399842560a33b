// loss_sum of cross_entropy.ts: one block; each thread sums every blockDim-th loss in FP64, and the first adds the threads' sums in order.
#include "cuda.h"

__device__ void run_loss_sum(const loss_sum_args& a) {
  __shared__ double sums[1024];
  __shared__ int32_t counts[1024];
  if (blockIdx.x != 0) return;
  double sum = 0;
  int32_t count = 0;
  BLOCK_LOOP(r, a.rows) {
    sum += a.losses[r];
    count += a.targets[r] != -1;
  }
  sums[threadIdx.x] = sum;
  counts[threadIdx.x] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < blockDim.x; i++) {
    sum += sums[i];
    count += counts[i];
  }
  a.loss[0] = (float)(a.loss[0] + sum);
  a.loss[1] = (float)(a.loss[1] + (double)count);
}
EXPORT_CUDA(loss_sum)
