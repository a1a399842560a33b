// Blocks of 16 BF16 to NVFP4 on a GPU, in the registers of a thread, with the bits of quantize.h.
//
// Nearest: with a the magnitude of a scaled element, p = 2^22 (1.25 + 39/256 a^2) is in [2^22, 2^23), [2^23, 2^24) or [2^24, 2^25) according to
// a < 2.219, a < 4.249 or a < 6.656, and so a number of FP32 beside it has steps of 1/2, 1 or 2: those of E2M1 (up to its rounding boundaries,
// 2.25 and 4.5). Hence p - (p - a) is a rounded to E2M1, and to even, since where a is a tie p is an even number of steps, exactly.
// Stochastic: the bits of an FP16 count E2M1's codes in steps of 2^-9 if 1 becomes FP16's smallest normal number, 2^-14.
#pragma once
#include "quantize_cuda.h"

static constexpr float TO_HALF = 0x1p-14f;

struct Words16 {
  uint32_t word[8];
};

struct Quantized16 {
  uint32_t words[2], stored;
};

// The positive s as E4M3, saturating.
__device__ inline uint32_t nearest_e4m3(float s) {
#if __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(s));
  return pair;
#else
  return encode_nearest<One, E4M3, false>(s);
#endif
}

// What all blocks of up to two images of a launch share: in shared memory, which is cheaper than registers held all the time.
struct SharedByBlocks {
  float multipliers[2][128];
  // Philox's keys of its ten rounds, two to an element.
  uint4 keys[5];
  // What a rotation by 16 multiplies its values by.
  float4 signed_quarters[4];
  uint32_t step;
};
__device__ inline SharedByBlocks& shared_by_blocks() {
  __shared__ SharedByBlocks shared;
  return shared;
}

// What elements are multiplied by, times TO_HALF; NaN where that is not exact.
__device__ inline float multiplier_of_half(uint32_t stored, const Outer<One>& outer) {
  const float multiplier = multiplier_of<One>(stored, outer);
  return multiplier < 0x1p-100f ? float_of(0x7fc00000u) : multiplier * TO_HALF;
}

// How the blocks of an image are scaled that have one outer scale.
struct BlockScales {
  float encode, reciprocal;
  const float* multipliers;

  // Whether the largest magnitude of a block, by its bits, is one for the fast code.
  __device__ static bool in_range(uint32_t b) {
    constexpr uint32_t least = 0x0d800000u, beyond = 0x71800000u;  // 2^-100, 2^100
    return b == 0 || b - least < beyond - least;
  }
};

// The stored scale of a block whose largest magnitude is in range. From 1 / limit, two steps of Newton's method end in the quotient that is nearest to
// largest / limit (Markstein).
__device__ inline uint32_t stored_scale(float largest, float encode, float reciprocal, const Scaling& s) {
  if (s.multiply) return nearest_e4m3(largest * (encode * reciprocal));
  float quotient = largest * reciprocal;
  quotient = fmaf(fmaf(-s.limit, quotient, largest), reciprocal, quotient);
  quotient = fmaf(fmaf(-s.limit, quotient, largest), reciprocal, quotient);
  return nearest_e4m3(quotient * encode);
}

__device__ inline void share_signs(const uint32_t* signs) {
  BLOCK_LOOP(i, 16) reinterpret_cast<float*>(shared_by_blocks().signed_quarters)[i] = signs[0] >> i & 1u ? -0.25f : 0.25f;
}

// For image 0 or 1 of a launch, by all threads of a block, before a barrier.
template <Rounding How> __device__ BlockScales share_scales(const Request<NVFP4>& q, int image) {
  SharedByBlocks& shared = shared_by_blocks();
  const Outer<One> outer = outer_of(q, 0);
  BLOCK_LOOP(i, 128)
    shared.multipliers[image][i] = q.scaling.four_over_six ? float_of(0x7fc00000u) : multiplier_of_half((uint32_t)i, outer);
  if constexpr (How == Rounding::stochastic) {
    BLOCK_LOOP(i, 10)
      reinterpret_cast<uint2*>(shared.keys)[i] = make_uint2(q.random[0] + (uint32_t)i * 0x9e3779b9u, q.random[1] + (uint32_t)i * 0xbb67ae85u);
    if (threadIdx.x == 0) shared.step = q.random[2];
  }
  if (q.hadamard) share_signs(q.signs);
  return BlockScales{outer.encode, 1.0f / q.scaling.limit, shared.multipliers[image]};
}

// draw_group by the shared keys.
__device__ inline Random<One> draw_group(uint32_t stream, uint64_t group) {
  const SharedByBlocks& shared = shared_by_blocks();
  uint32_t c0 = (uint32_t)group, c1 = (uint32_t)(group >> 32), c2 = stream, c3 = shared.step;
  const auto round = [&](uint32_t k0, uint32_t k1) {
    uint32_t h0, l0, h1, l1;
    One::multiply(c0, 0xd2511f53u, h0, l0);
    One::multiply(c2, 0xcd9e8d57u, h1, l1);
    c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
  };
#pragma unroll
  for (int i = 0; i < 5; i++) {
    const uint4 k = shared.keys[i];
    round(k.x, k.y);
    round(k.z, k.w);
  }
  return Random<One>{{c0, c1, c2, c3}};
}

// Sign bits of 8 values, two to a word, where their codes have them.
__device__ inline uint32_t signs_of_codes(const uint32_t* w) {
  const uint32_t low = __byte_perm(w[0], w[1], 0x7351), high = __byte_perm(w[2], w[3], 0x7351);
  uint32_t even, odd;
  // Bytes of the sign.
  asm("prmt.b32 %0, %1, %2, 0xdc98;" : "=r"(even) : "r"(low), "r"(high));
  odd = __byte_perm(low, high, 0x7632);
  return (even & 0x08080808u) | (odd & ~0x08080808u);
}

__device__ inline uint32_t half_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline uint32_t half_pair_towards_zero(float low, float high) {
  uint32_t pair;
  asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// y times TO_HALF, rounded to E2M1's magnitudes times TO_HALF; |y| at most 6.5.
__device__ inline float round_e2m1(float y) {
  const float p = fmaf(y, y * (39.0f / 256 * 0x1p22f / TO_HALF), 1.25f * 0x1p22f * TO_HALF);
  return p - (p - fabsf(y));
}

__device__ inline uint32_t nearest_codes(const uint32_t* w, float multiplier) {
  float r[8];
#pragma unroll
  for (int k = 0; k < 4; k++) r[2 * k] = round_e2m1(low_of(w[k]) * multiplier), r[2 * k + 1] = round_e2m1(high_of(w[k]) * multiplier);
  const uint32_t first = half_pair(r[0], r[4]) + 16 * half_pair(r[1], r[5]), second = half_pair(r[2], r[6]) + 16 * half_pair(r[3], r[7]);
  return ((first >> 9) + (second >> 1)) | (signs_of_codes(w) & 0x88888888u);
}

// Counts of 2^-9 of a code, with random bits added from 2^-8 on.
__device__ inline uint32_t stochastic_steps(float low, float high, uint32_t random) {
  uint32_t steps = half_pair_towards_zero(low, high);
  asm("{.reg .b32 a; abs.f16x2 a, %0; min.f16x2 %0, a, %1;}" : "+r"(steps) : "r"(0x0e000e00u));
  return steps + 2 * random;
}

__device__ inline uint32_t stochastic_codes(const uint32_t* w, float multiplier, uint32_t random0, uint32_t random1) {
  float y[8];
#pragma unroll
  for (int k = 0; k < 4; k++) y[2 * k] = low_of(w[k]) * multiplier, y[2 * k + 1] = high_of(w[k]) * multiplier;
  const uint32_t a = stochastic_steps(y[0], y[2], __byte_perm(random0, 0, 0x4240)), b = stochastic_steps(y[1], y[3], __byte_perm(random0, 0, 0x4341));
  const uint32_t c = stochastic_steps(y[4], y[6], __byte_perm(random1, 0, 0x4240)), d = stochastic_steps(y[5], y[7], __byte_perm(random1, 0, 0x4341));
  const uint32_t low = (a & 0x0e000e00u) | ((b << 4) & ~0x0e000e00u), high = (c & 0x0e000e00u) | ((d << 4) & ~0x0e000e00u);
  const uint32_t codes = ((low >> 9) & 0x00ff00ffu) | ((high >> 1) & ~0x00ff00ffu);
  return (__byte_perm(codes, 0, 0x3120) & 0x77777777u) | (signs_of_codes(w) & 0x88888888u);
}

__device__ inline uint32_t larger_half(uint32_t pair) { return One::larger(pair, pair << 16) & 0xffff0000u; }

// The larger magnitudes of two pairs, as bits. They order as FP16's do, and what is NaN there or larger than that ends as 0x7fff.
__device__ inline uint32_t larger_pair(uint32_t a, uint32_t b) {
  uint32_t larger;
  asm("{.reg .b32 x, y; abs.f16x2 x, %1; abs.f16x2 y, %2; max.NaN.f16x2 %0, x, y;}" : "=r"(larger) : "r"(a), "r"(b));
  return larger;
}

// Of 8 pairs.
__device__ inline uint32_t largest_pair_of(const uint32_t* w) {
  return larger_pair(larger_pair(larger_pair(w[0], w[1]), larger_pair(w[2], w[3])), larger_pair(larger_pair(w[4], w[5]), larger_pair(w[6], w[7])));
}

// What the fast code does not do: values that are not finite, four-over-six, MS-EDEN, scales that are out of its range.
template <Rounding How>
__device__ __noinline__ Quantized16 quantize_sixteen_in_general(Scaling scaling, const float* amax, const uint32_t* key, uint32_t stream,
                                                                Words16 words, uint64_t group) {
  Quantized16 out;
  float v[16], squares[16], products[16];
  uint32_t b = 0;
#pragma unroll
  for (int k = 0; k < 8; k++) v[2 * k] = low_of(words.word[k]), v[2 * k + 1] = high_of(words.word[k]);
#pragma unroll
  for (int i = 0; i < 16; i++) b = One::larger(b, magnitude<One>(v[i]));
  const Outer<One> outer = outer_scale<One>(amax[0], scaling);
  BlockScale<One> scale = ScaleE4M3::of<One>(b, outer, scaling);
  Random<One> random{};
  if constexpr (How != Rounding::nearest) random = draw_group(key, stream, group);
  if constexpr (How == Rounding::nearest)
    if (scaling.four_over_six) scale = four_over_six<One>(v, b, scale, outer, scaling);
  if constexpr (How == Rounding::eden) scale = eden_scale<One>(scale, outer);
  encode_group<NVFP4, How>(v, scale, random, out.words, squares, products);
  if constexpr (How == Rounding::eden) scale.stored = eden_correction<One>(scale.stored, squares, products, random.word[0]);
  out.stored = scale.stored;
  return out;
}

// Block `group` of the image, of line `line`.
template <Rounding How>
__device__ Quantized16 quantize_sixteen(const Request<NVFP4>& q, const BlockScales& scales, const Words16& words, uint64_t group, int64_t line) {
  const float* const amax = q.amax + (q.per_row ? line : 0);
  if constexpr (How == Rounding::eden) return quantize_sixteen_in_general<How>(q.scaling, amax, q.random, q.stream, words, group);
  const uint32_t* const w = words.word;
  const uint32_t b = larger_half(largest_pair_of(w));
  Quantized16 out;
  float multiplier;
  if (q.per_row) {
    const Outer<One> outer = outer_scale<One>(amax[0], q.scaling);
    out.stored = stored_scale(float_of(b), outer.encode, scales.reciprocal, q.scaling);
    multiplier = q.scaling.four_over_six ? float_of(0x7fc00000u) : multiplier_of_half(out.stored, outer);
  } else {
    out.stored = stored_scale(float_of(b), scales.encode, scales.reciprocal, q.scaling);
    multiplier = scales.multipliers[out.stored];
  }
  const float largest = float_of(b) * multiplier;
  // Beyond FP16, rounding towards zero ends in the clamp.
  if (!BlockScales::in_range(b) || !(How == Rounding::nearest ? largest <= 6.5f * TO_HALF : largest >= 0.0f))
    return quantize_sixteen_in_general<How>(q.scaling, amax, q.random, q.stream, words, group);
  if constexpr (How == Rounding::nearest) {
    out.words[0] = nearest_codes(w, multiplier);
    out.words[1] = nearest_codes(w + 4, multiplier);
  } else {
    const Random<One> random = draw_group(q.stream, group);
    out.words[0] = stochastic_codes(w, multiplier, random.word[0], random.word[1]);
    out.words[1] = stochastic_codes(w + 4, multiplier, random.word[2], random.word[3]);
  }
  return out;
}
