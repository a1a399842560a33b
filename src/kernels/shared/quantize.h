// Block scales and element codes, over one lane or many (lanes.h); lanes never mix, so a lane is a block.
//
// This is src/formats/minifloat.ts, ue8m0.ts and scales.ts step by step: each operation below is one FP32 operation there, in the
// same order. With a = |x|, e its exponent (at least that of the smallest normal number) and M mantissa bits, codes count multiples of
// 2^(e-M): a + 2^(e-M+23) rounds a to such a multiple, ties to even, and the lower bits of the sum are its number.
#pragma once
#include "philox.h"

struct E2M1 {
  static constexpr int bits = 4, mantissa = 1, lowest = 127;  // biased FP32 exponent of the smallest normal number
  static constexpr uint32_t largest = 0x40c00000u, nan = 0x7;
};
struct E4M3 {
  static constexpr int bits = 8, mantissa = 3, lowest = 121;
  static constexpr uint32_t largest = 0x43e00000u, nan = 0x7f;
};

static constexpr uint32_t INFINITE = 0x7f800000u;
static constexpr float LARGEST_FLOAT = 3.4028234663852886e38f;
static constexpr float LARGEST_BF16 = 3.3895313892515355e38f;

template <class L, class E> SHARED typename L::Word exponent_of(typename L::Word a) {
  return L::larger(a, L::word((uint32_t)E::lowest << 23)) & INFINITE;
}

template <class L, class E, bool Nan> SHARED typename L::Word with_sign(typename L::Word code, typename L::Word x) {
  const typename L::Word sign = (x >> (32 - E::bits)) & (1u << (E::bits - 1));
  if (!Nan) return code | sign;
  return L::select(L::above(x & 0x7fffffffu, L::word(INFINITE)), L::word(E::nan), code | sign);
}

// Code of the value nearest to x, ties to even, saturating; NaN becomes E::nan. Without `Nan`, x is known not to be one.
template <class L, class E, bool Nan = true> SHARED typename L::Word encode_nearest(typename L::Real x) {
  typedef typename L::Word Word;
  const Word u = L::bits(x), a = L::smaller(u & 0x7fffffffu, L::word(E::largest));
  const Word exponent = exponent_of<L, E>(a);
  const Word magic = exponent + ((uint32_t)(23 - E::mantissa) << 23);
  const Word multiple = L::bits(L::of_bits(a) + L::of_bits(magic)) - magic;
  return with_sign<L, E, Nan>(multiple + (exponent >> (23 - E::mantissa)) - ((uint32_t)E::lowest << E::mantissa), u);
}

// Away from zero iff the fraction of a step, truncated to Bits bits, plus `random` of as many bits carries.
template <class L, class E, int Bits, bool Nan = true>
SHARED typename L::Word encode_stochastic(typename L::Real x, typename L::Word random) {
  typedef typename L::Word Word;
  const Word u = L::bits(x), a = L::smaller(u & 0x7fffffffu, L::word(E::largest));
  const Word exponent = exponent_of<L, E>(a);
  const Word scale = ((uint32_t)(2 * 127 + Bits + E::mantissa) << 23) - exponent;
  const Word multiple = L::truncate(L::of_bits(a) * L::of_bits(scale));
  const Word base = ((exponent >> 23) - (uint32_t)E::lowest) << (E::mantissa + Bits);
  return with_sign<L, E, Nan>((multiple + base + random) >> Bits, u);
}

// Magnitude of a code without sign.
template <class L, class E> SHARED typename L::Real decode_magnitude(typename L::Word code) {
  const float step = E::mantissa == 1 ? 0.5f : 0.001953125f;
  const typename L::Word normal = (code << (23 - E::mantissa)) + ((uint32_t)(E::lowest - 1) << 23);
  return L::select(L::above(L::word(1u << E::mantissa), code), L::convert(code) * step, L::of_bits(normal));
}

template <class L, class E> SHARED typename L::Real decode(typename L::Word code) {
  const uint32_t sign = 1u << (E::bits - 1);
  const typename L::Word magnitude = L::bits(decode_magnitude<L, E>(code & (sign - 1)));
  const typename L::Word value = magnitude | ((code & sign) << (32 - E::bits));
  if (E::bits == 4) return L::of_bits(value);
  return L::of_bits(L::select(L::equal(code & 0x7fu, L::word(E::nan)), L::word(0x7fc00000u), value));
}

// UE8M0: 2^(code - 127), NaN for 255.
SHARED float ue8m0_value(uint32_t code) {
  if (code == 255) return float_of(0x7fc00000u);
  return float_of(code == 0 ? 0x400000u : code << 23);
}

// |x| as bits, which order as the magnitudes do; NaN counts as 0.
template <class L> SHARED typename L::Word magnitude(typename L::Real x) {
  const typename L::Word a = L::bits(x) & 0x7fffffffu;
  return L::select(L::above(a, L::word(INFINITE)), L::word(0), a);
}

template <class L> SHARED typename L::Real clamp(typename L::Real x) {
  return L::select(L::below(x, L::real(LARGEST_FLOAT)), x, L::real(LARGEST_FLOAT));
}

// The scalars of a call, as src/ops/image.ts passes them.
struct Scaling {
  float limit;              // quotient aimed at for the largest element of a block
  float bound = 0;          // limit times the largest block scale
  int multiply = 0;         // 1: scale order m6
  int four_over_six = 0;    // 1: mean absolute, 2: mean squared error
  int floor = 0;            // 1: UE8M0 scales as OCP's floor
  int power_of_two = 0;     // 1: FP32 scales without mantissa
  float largest_source = LARGEST_FLOAT;
};

template <class L> struct Outer {
  typename L::Real amax, encode, decode;
};

template <class L> SHARED Outer<L> outer_scale(typename L::Real amax, const Scaling& s) {
  typename L::Real encode = clamp<L>(L::real(s.bound) / amax);
  encode = L::select(L::equal(L::bits(amax), L::word(0)), L::real(1), encode);
  encode = L::select(L::equal(L::bits(encode), L::word(0)), L::real(1), encode);
  return Outer<L>{amax, encode, L::real(1) / encode};
}

template <class L> struct BlockScale {
  typename L::Word stored;        // code, or the bits of an FP32
  typename L::Real multiplier;    // of elements, before they are rounded
};

template <class L> SHARED typename L::Real multiplier_of(typename L::Word stored, const Outer<L>& outer) {
  return clamp<L>(L::real(1) / (decode_magnitude<L, E4M3>(stored) * outer.decode));
}

template <class L> SHARED BlockScale<L> e4m3_scale(typename L::Real unrounded, const Outer<L>& outer) {
  const typename L::Word stored = encode_nearest<L, E4M3>(unrounded);
  return BlockScale<L>{stored, multiplier_of<L>(stored, outer)};
}

// Scale formats: `of` gives the scale of a block whose largest magnitude has the bits b.
struct ScaleE4M3 {
  typedef uint8_t Stored;
  static constexpr bool outer = true;
  template <class L> SHARED static BlockScale<L> of(typename L::Word b, const Outer<L>& outer, const Scaling& s) {
    const typename L::Real largest = L::of_bits(b);
    const typename L::Real scale = s.multiply ? largest * (outer.encode * (1.0f / s.limit)) : largest / s.limit * outer.encode;
    return e4m3_scale<L>(clamp<L>(scale), outer);
  }
};

struct ScaleUE8M0 {
  typedef uint8_t Stored;
  static constexpr bool outer = false;
  template <class L> SHARED static BlockScale<L> of(typename L::Word b, const Outer<L>&, const Scaling& s) {
    typedef typename L::Word Word;
    Word code;
    if (s.floor) {
      const uint32_t emax = (bits_of(s.limit) >> 23) - 127;
      code = L::larger(b >> 23, L::word(emax)) - emax;
    } else {
      const Word v = L::bits(L::of_bits(b) * (1.0f / s.limit));
      code = L::select(L::above(v, L::word(0x400000u)), (v + 0x7fffffu) >> 23, L::word(0));
    }
    code = L::smaller(code, L::word(254));
    const Word power = L::select(L::equal(code, L::word(254)), L::word(0x400000u), (254u - code) << 23);
    return BlockScale<L>{code, L::of_bits(power)};
  }
};

struct ScaleF32 {
  typedef float Stored;
  static constexpr bool outer = false;
  template <class L> SHARED static BlockScale<L> of(typename L::Word b, const Outer<L>&, const Scaling& s) {
    typedef typename L::Word Word;
    typename L::Real multiplier = L::real(s.limit) / L::of_bits(b);
    multiplier = L::select(L::equal(L::bits(multiplier), L::word(INFINITE)), L::real(s.largest_source), multiplier);
    const Word none = L::word(0), infinite = L::word(INFINITE);
    multiplier = L::select(L::equal(b, none), L::real(1), L::select(L::equal(b, infinite), L::real(1), multiplier));
    if (s.power_of_two) multiplier = L::of_bits(L::bits(multiplier) & 0xff800000u);
    return BlockScale<L>{L::bits(L::real(1) / multiplier), multiplier};
  }
};

// Formats: rows of src/formats/formats.ts.
struct NVFP4 {
  typedef E2M1 Element;
  typedef ScaleE4M3 Scale;
  static constexpr int block = 16;
  static constexpr bool whole = false;
};
struct MXFP4 {
  typedef E2M1 Element;
  typedef ScaleUE8M0 Scale;
  static constexpr int block = 32;
  static constexpr bool whole = false;
};
struct MXFP8 {
  typedef E4M3 Element;
  typedef ScaleUE8M0 Scale;
  static constexpr int block = 32;
  static constexpr bool whole = false;
};
struct FP8 {
  typedef E4M3 Element;
  typedef ScaleF32 Scale;
  static constexpr int block = 128;
  static constexpr bool whole = false;
};

// One scale for the tensor; blocks are only pieces of work.
struct FP8Tensor {
  typedef E4M3 Element;
  typedef ScaleF32 Scale;
  static constexpr int block = 16;
  static constexpr bool whole = true;
};

// Four-over-six: sum over x[0..15] of the error that a scale leaves, in order.
template <class L>
SHARED typename L::Real block_error(const typename L::Real* x, const BlockScale<L>& scale, const Outer<L>& outer, const Scaling& s) {
  const typename L::Real decoded = decode_magnitude<L, E4M3>(scale.stored);
  typename L::Real sum = L::real(0);
  for (int i = 0; i < 16; i++) {
    const typename L::Real q = decode<L, E2M1>(encode_nearest<L, E2M1>(x[i] * scale.multiplier));
    const typename L::Real d = q * decoded * outer.amax / s.bound - x[i];
    sum = sum + (s.four_over_six == 2 ? d * d : L::of_bits(L::bits(d) & 0x7fffffffu));
  }
  return sum;
}

// The other candidate of four-over-six: 1.5 times the scale, so that the largest element becomes 4.
template <class L> SHARED BlockScale<L> scale_to_four(typename L::Word b, const Outer<L>& outer, const Scaling& s) {
  return e4m3_scale<L>(L::of_bits(b) / s.limit * outer.encode * 1.5f, outer);
}

// The better of both scales for each lane's block of 16.
template <class L>
SHARED BlockScale<L> four_over_six(const typename L::Real* x, typename L::Word b, const BlockScale<L>& six, const Outer<L>& outer,
                                   const Scaling& s) {
  const BlockScale<L> four = scale_to_four<L>(b, outer, s);
  const auto better = L::below(block_error<L>(x, four, outer, s), block_error<L>(x, six, outer, s));
  return BlockScale<L>{L::select(better, four.stored, six.stored), L::select(better, four.multiplier, six.multiplier)};
}

template <class L> SHARED typename L::Real tree_sum(typename L::Real* terms) {
  for (int half = 8; half > 0; half >>= 1)
    for (int i = 0; i < half; i++) terms[i] = terms[i] + terms[i + half];
  return terms[0];
}

// MS-EDEN: a scale of 0 becomes 1.
template <class L> SHARED BlockScale<L> eden_scale(const BlockScale<L>& scale, const Outer<L>& outer) {
  const typename L::Word stored = L::select(L::equal(scale.stored, L::word(0)), L::word(0x38), scale.stored);
  return BlockScale<L>{stored, multiplier_of<L>(stored, outer)};
}

// MS-EDEN: the stored scale times sum u^2 / sum uq, rounded stochastically with 24 random bits.
template <class L>
SHARED typename L::Word eden_correction(typename L::Word stored, typename L::Real* squares, typename L::Real* products,
                                        typename L::Word random) {
  typedef typename L::Real Real;
  const Real c = tree_sum<L>(squares) / tree_sum<L>(products);
  const auto finite = L::above(L::word(INFINITE), L::bits(c) & 0x7fffffffu);
  const Real corrected = decode_magnitude<L, E4M3>(stored) * L::select(finite, c, L::real(1));
  return encode_stochastic<L, E4M3, 24>(corrected, random >> 8);
}
