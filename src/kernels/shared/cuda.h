// What a CUDA kernel needs beside its mathematics: loops that any launch covers, and the export of a C symbol with the contract's
// arguments. Every kernel here is right for any one-dimensional grid and block; the launch only decides how fast it is.
#pragma once
#include "contracts.h"

// i = this thread's share of 0 .. count-1 within its block, of the whole grid, and the share of this block.
#define BLOCK_LOOP(i, count) for (int64_t i = threadIdx.x; i < (count); i += blockDim.x)
#define GRID_LOOP(i, count) \
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (count); i += (int64_t)gridDim.x * blockDim.x)
#define EACH_BLOCK(i, count) for (int64_t i = blockIdx.x; i < (count); i += gridDim.x)

// A kernel with `act` arguments is a device function template over their type; this gives it its two entry points.
#define EXPORT_CUDA_ACT(name)                                                      \
  extern "C" __global__ void name##_f32(name##_args<float> a) { name(a); }         \
  extern "C" __global__ void name##_bf16(name##_args<bf16> a) { name(a); }

// A kernel without `act` arguments: `__device__ void run_<name>(const <name>_args&)`.
#define EXPORT_CUDA(name) \
  extern "C" __global__ void name(name##_args a) { run_##name(a); }
