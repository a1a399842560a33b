// What a CUDA kernel needs beside its mathematics: loops that any launch covers, and the export of C symbols with the contract's
// arguments. A kernel whose contract names no launches (src/tensor/cuda.ts) is right for any one-dimensional grid and block.
//
// The backend finds the file of an entry point by these macros' text: write name and entry out in full.
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

// An entry point of a contract that names its launches: a device function template `<name>_<entry>` of the arguments and the workspace.
// `threads` is the most that a block of its launches has.
#define EXPORT_CUDA_ACT_ENTRY(name, entry, threads)                                                                        \
  extern "C" __global__ void __launch_bounds__(threads) name##_f32_##entry(name##_args<float> a, void* workspace) {        \
    name##_##entry(a, workspace);                                                                                          \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(threads) name##_bf16_##entry(name##_args<bf16> a, void* workspace) {        \
    name##_##entry(a, workspace);                                                                                          \
  }

// The same of a kernel without `act` arguments: `__device__ void run_<name>_<entry>(const <name>_args&, void*)`.
#define EXPORT_CUDA_ENTRY(name, entry, threads)                                                                \
  extern "C" __global__ void __launch_bounds__(threads) name##_##entry(name##_args a, void* workspace) {       \
    run_##name##_##entry(a, workspace);                                                                        \
  }
