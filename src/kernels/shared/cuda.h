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

// Eight consecutive elements as FP32; their address is a multiple of 16 bytes, of 32 for FP32 that lie so.
struct Eight {
  float v[8];
};
__device__ inline Eight unpack_eight(const uint4& words) {
  return Eight{{float_of(words.x << 16), float_of(words.x & 0xffff0000u), float_of(words.y << 16), float_of(words.y & 0xffff0000u),
                float_of(words.z << 16), float_of(words.z & 0xffff0000u), float_of(words.w << 16), float_of(words.w & 0xffff0000u)}};
}
__device__ inline Eight load_eight(const bf16* from) { return unpack_eight(*reinterpret_cast<const uint4*>(from)); }
__device__ inline Eight load_eight(const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  return Eight{{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}
// Eight elements as they are in memory: half the registers of `Eight` where they are BF16.
template <class Act> struct Packed {
  Eight eight;
  __device__ void load_from(const Act* from) { eight = load_eight(from); }
  __device__ Eight get() const { return eight; }
};
template <> struct Packed<bf16> {
  uint4 words;
  __device__ void load_from(const bf16* from) { words = *reinterpret_cast<const uint4*>(from); }
  __device__ Eight get() const { return unpack_eight(words); }
};

// Two BF16 in a word, each `bf16_bits` but for a NaN, which becomes the canonical one.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline void store_eight(bf16* to, const Eight& x) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]), pack_bf16(x.v[4], x.v[5]), pack_bf16(x.v[6], x.v[7]));
}
template <class... T> __device__ bool in_sixteens(const T*... at) { return ((reinterpret_cast<uint64_t>(at) | ...) & 15) == 0; }

__device__ inline void store_eight(float* to, const Eight& x) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
}

template <class F, class... In> __device__ Eight map_eight(const F& f, const In&... in) {
  Eight out;
#pragma unroll
  for (int i = 0; i < 8; i++) out.v[i] = f(in.v[i]...);
  return out;
}

// y[i] = f(x[i]...) for all i below n; eight at a time where all of them lie so.
template <class Out, class F, class... In> __device__ void map_elements(int64_t n, Out* y, const F& f, const In*... x) {
  int64_t done = 0;
  if (in_sixteens(y, x...)) {
    done = n / 8 * 8;
    GRID_LOOP(u, n / 8) {
      store_eight(y + 8 * u, map_eight(f, load_eight(x + 8 * u)...));
    }
  }
  GRID_LOOP(i, n - done) store(y + done + i, f(load(x + done + i)...));
}

// What is said of FP32 or BF16 activations; a program for one of them leaves the other's kernels out.
#ifdef ONLY_BF16
#define FOR_F32(...)
#else
#define FOR_F32(...) __VA_ARGS__
#endif
#ifdef ONLY_F32
#define FOR_BF16(...)
#else
#define FOR_BF16(...) __VA_ARGS__
#endif

// A kernel with `act` arguments is a device function template over their type; this gives it its two entry points.
#define EXPORT_CUDA_ACT(name)                                                               \
  FOR_F32(extern "C" __global__ void name##_f32(name##_args<float> a) { name(a); })         \
  FOR_BF16(extern "C" __global__ void name##_bf16(name##_args<bf16> a) { name(a); })

// A kernel without `act` arguments: `__device__ void run_<name>(const <name>_args&)`.
#define EXPORT_CUDA(name) \
  extern "C" __global__ void name(name##_args a) { run_##name(a); }

// An entry point of a contract that names its launches: a device function template `<name>_<entry>` of the arguments and the workspace.
// `threads` is the most that a block of its launches has, and may be followed by how many blocks a multiprocessor should hold.
#define EXPORT_CUDA_ACT_ENTRY(name, entry, ...)                                                                                     \
  FOR_F32(extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_f32_##entry(name##_args<float> a, void* workspace) {     \
    name##_##entry(a, workspace);                                                                                                   \
  })                                                                                                                                \
  FOR_BF16(extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_bf16_##entry(name##_args<bf16> a, void* workspace) {    \
    name##_##entry(a, workspace);                                                                                                   \
  })

// An entry point for one dtype of activations.
#define EXPORT_CUDA_F32_ENTRY(name, entry, ...)                                                                                  \
  FOR_F32(extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_f32_##entry(name##_args<float> a, void* workspace) {  \
    name##_##entry(a, workspace);                                                                                                \
  })
#define EXPORT_CUDA_BF16_ENTRY(name, entry, ...)                                                                                 \
  FOR_BF16(extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_bf16_##entry(name##_args<bf16> a, void* workspace) { \
    name##_##entry(a, workspace);                                                                                                \
  })

// The same of a kernel without `act` arguments: `__device__ void run_<name>_<entry>(const <name>_args&, void*)`.
#define EXPORT_CUDA_ENTRY(name, entry, threads)                                                                \
  extern "C" __global__ void __launch_bounds__(threads) name##_##entry(name##_args a, void* workspace) {       \
    run_##name##_##entry(a, workspace);                                                                        \
  }
