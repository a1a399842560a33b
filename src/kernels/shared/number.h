// BF16 and the exact FP32 steps that every kernel shares; compiled by g++, nvcc and NVRTC alike.
// BF16 is the upper half of an FP32; rounding is to nearest-even, a NaN stays a quiet NaN. See src/formats/bf16.ts.
#pragma once
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#include <cstring>
#endif

#ifdef __CUDACC__
#define SHARED __host__ __device__ inline
#else
#define SHARED inline
#endif

SHARED uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
#endif
}

SHARED float float_of(uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float x;
  memcpy(&x, &u, 4);
  return x;
#endif
}

struct bf16 {
  uint16_t bits;
};

SHARED uint16_t bf16_bits(float x) {
  uint32_t u = bits_of(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  uint32_t quiet = (u >> 16) | 0x40u;
  return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

SHARED float load(const float* p) { return *p; }
SHARED float load(const bf16* p) { return float_of((uint32_t)p->bits << 16); }
SHARED void store(float* p, float x) { *p = x; }
SHARED void store(bf16* p, float x) { p->bits = bf16_bits(x); }
// An FP32 that is read rounded to BF16.
struct Rounded {
  float value;
};

SHARED float round_bf16(float x) { return float_of((uint32_t)bf16_bits(x) << 16); }
SHARED float load(const Rounded* p) { return round_bf16(p->value); }
