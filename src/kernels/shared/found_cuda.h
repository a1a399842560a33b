// The largest magnitude of a tensor and whether all of it is finite, as a launch finds them. Magnitudes are compared as bits, so maxima may be taken in
// any order, by atomics.
//
// Blocks add what they found to one pair of words for each result; the last block to do so writes it and clears the pair for the next launch.
// Launches of kernels of one file must therefore follow one another, as they do on one stream.
#pragma once
#include "number.h"

static constexpr uint32_t INFINITE_BITS = 0x7f800000u;

__device__ uint32_t found_finite[2], found_any[2], blocks_done[2];

// The largest magnitude that is not NaN, and the largest of all bits without sign.
struct Found {
  uint32_t finite = 0, any = 0;
  __device__ void add(float x) {
    const uint32_t a = bits_of(x) & 0x7fffffffu;
    any = a > any ? a : any;
    if (a <= INFINITE_BITS && a > finite) finite = a;
  }
  __device__ void add(const Found& other) {
    finite = other.finite > finite ? other.finite : finite;
    any = other.any > any ? other.any : any;
  }
};

// By one thread of each block, of what its block found; `which` result of the launch this is. It may be wanted in two places.
__device__ inline void finish_block(const Found& found, float* amax, float* amax_too = nullptr, int which = 0) {
  atomicMax(&found_finite[which], found.finite);
  atomicMax(&found_any[which], found.any);
  __threadfence();
  if (atomicAdd(&blocks_done[which], 1u) != gridDim.x - 1) return;
  const float largest = float_of(atomicExch(&found_finite[which], 0u));
  const float bad = atomicExch(&found_any[which], 0u) >= INFINITE_BITS ? 1.0f : 0.0f;
  amax[0] = largest, amax[1] = bad;
  if (amax_too) amax_too[0] = largest, amax_too[1] = bad;
  blocks_done[which] = 0;
}

// By all threads of all blocks, of what each found.
__device__ inline void finish(const Found& found, float* amax, float* amax_too = nullptr, int which = 0) {
  __shared__ uint32_t finite, any;
  __syncthreads();
  if (threadIdx.x == 0) finite = any = 0;
  __syncthreads();
  const uint32_t of_warp = __reduce_max_sync(0xffffffffu, found.finite), any_of_warp = __reduce_max_sync(0xffffffffu, found.any);
  if (threadIdx.x % 32 == 0) {
    atomicMax(&finite, of_warp);
    atomicMax(&any, any_of_warp);
  }
  __syncthreads();
  if (threadIdx.x == 0) finish_block(Found{finite, any}, amax, amax_too, which);
}
