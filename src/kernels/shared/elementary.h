// exp, log and what is built on them, as inline functions that a compiler vectorises inside a plain loop; FP32.
//
//   exp(x) = 2^n e^r,  n = round(x / ln 2), |r| <= ln 2 / 2,  e^r = 1 + r + r^2 q(r), q of degree 4 by a minimax fit (3e-9)
//   log(x) = k ln 2 + log(1 + f),  1 + f in [sqrt 1/2, sqrt 2),  log(1 + f) = 2 atanh(s), s = f / (2 + f), as a series in s^2
//
// Relative errors are below 1e-7 for exp and 2e-7 for the others (test/elementary.test.ts measures them). NaN and infinities behave as in
// <cmath>, subnormal numbers count as zero.
#pragma once
#include "number.h"

// a * b + c, in one rounding where the level has FMA: only for results that have a tolerance. The portable level has none, not even on
// processors that do: it computes the same numbers on all of them.
SHARED float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return fmaf(a, b, c);
#elif defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// 0 below -86.9, where the result would be within a factor 2 of the smallest normal number.
SHARED float fast_exp(float x) {
  const float low = x < -86.9f ? -86.9f : x;
  const float bounded = low > 89.0f ? 89.0f : low;
  // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
  const float shifted = multiply_add(bounded, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  const float r = multiply_add(n, -1.42860677e-6f, multiply_add(n, -0.693145752f, bounded));
  float q = 0.00138144672f;
  q = multiply_add(q, r, 0.00836878084f);
  q = multiply_add(q, r, 0.0416683927f);
  q = multiply_add(q, r, 0.166665196f);
  q = multiply_add(q, r, 0.49999994f);
  const float e = 1.0f + multiply_add(r * r, q, r);
  // 2^n as 2 * 2^(n-1), so that n = 128 does not overflow before the product does.
  const float scale = float_of((bits_of(shifted) - 0x4b400000u + 126u) << 23);
  const float result = (e * 2.0f) * scale;
  return x < -86.9f ? 0.0f : result;
}

SHARED float fast_log(float x) {
  const uint32_t offset = bits_of(x) - 0x3f3504f3u;
  const float k = (float)((int32_t)offset >> 23);
  const float f = float_of((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float s = f / (2.0f + f);
  const float z = s * s;
  float series = 0.222222222f;
  series = multiply_add(series, z, 0.285714286f);
  series = multiply_add(series, z, 0.4f);
  series = multiply_add(series, z, 0.666666667f);
  const float half_square = 0.5f * f * f;
  const float low = multiply_add(k, 1.42860677e-6f, s * multiply_add(z, series, half_square));
  const float result = multiply_add(k, 0.693145752f, f - (half_square - low));
  const float upper = x <= 3.40282347e38f ? result : x;
  const float lower = x == 0.0f ? float_of(0xff800000u) : float_of(0x7fc00000u);
  return x > 0.0f ? upper : lower;
}

// log(1 + x) for x >= 0. What 1 + x loses to rounding is put back to first order.
SHARED float fast_log1p(float x) {
  const float u = 1.0f + x;
  return fast_log(u) + (x - (u - 1.0f)) / u;
}

SHARED float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }
SHARED float fast_silu(float x) { return x * fast_sigmoid(x); }
// log(1 + e^x)
SHARED float fast_softplus(float x) { return (x > 0.0f ? x : 0.0f) + fast_log1p(fast_exp(x > 0.0f ? -x : x)); }
