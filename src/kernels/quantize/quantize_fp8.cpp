// quantize_fp8_* and quantize_fp8_tensor_*: contracts in quantize.ts.
#include "square_cpu.h"

template <class A> static Scaling scaling_of(const A& a, bool is_bf16) {
  Scaling s{a.limit};
  s.power_of_two = a.pow2;
  s.largest_source = is_bf16 ? LARGEST_BF16 : LARGEST_FLOAT;
  return s;
}

template <class Format, class Act, class A> static Request<Format> lines_of(const A& a, const float* amax, float* finds) {
  return {a.codes, a.scales, amax, 0, a.signs, a.hadamard, Draw(a.random, a.stream), scaling_of(a, IsBf16<Act>::value), Mapping(), finds};
}

template <class Format, class Act, class A> static void rows_of(const A& a, const float* amax, float* finds) {
  quantize_rows(lines_of<Format, Act>(a, amax, finds), a.rounding != 0, a.x, a.rows, a.cols);
}

template <class Format, class Act, class A> static void columns_of(const A& a, const float* amax, float* finds) {
  quantize_columns(lines_of<Format, Act>(a, amax, finds), a.rounding != 0, a.x, a.rows, a.cols);
}

template <class Format, class A, class T> static void square_of(const A& a, const T* x, bool is_bf16, const float* amax, float* finds) {
  const Request<Format> q{a.codes, a.scales, amax, 0, nullptr, 0, Draw(a.random, a.stream), scaling_of(a, is_bf16), Mapping(), finds};
  quantize_square(q, a.rounding != 0, a.codes_t, a.scales_t, x, a.rows, a.cols);
}

template <class Act> static void quantize_fp8_rows(const quantize_fp8_rows_args<Act>& a) { rows_of<FP8, Act>(a, nullptr, a.amax); }
EXPORT_ACT(quantize_fp8_rows)
template <class Act> static void quantize_fp8_columns(const quantize_fp8_columns_args<Act>& a) {
  columns_of<FP8, Act>(a, nullptr, a.amax);
}
EXPORT_ACT(quantize_fp8_columns)
template <class Act> static void quantize_fp8_square(const quantize_fp8_square_args<Act>& a) {
  if constexpr (!IsBf16<Act>::value)
    if (a.rounded) return square_of<FP8>(a, reinterpret_cast<const Rounded*>(a.x), true, nullptr, a.amax);
  square_of<FP8>(a, a.x, IsBf16<Act>::value, nullptr, a.amax);
}
EXPORT_ACT(quantize_fp8_square)
template <class Act> static void quantize_fp8_both(const quantize_fp8_both_args<Act>& a) {
  quantize_both<FP8>(a, nullptr, nullptr, scaling_of(a, IsBf16<Act>::value), a.amax, a.amax_t);
}
EXPORT_ACT(quantize_fp8_both)

template <class Act> static void quantize_fp8_tensor_rows(const quantize_fp8_tensor_rows_args<Act>& a) {
  rows_of<FP8Tensor, Act>(a, a.amax, nullptr);
}
EXPORT_ACT(quantize_fp8_tensor_rows)
template <class Act> static void quantize_fp8_tensor_columns(const quantize_fp8_tensor_columns_args<Act>& a) {
  columns_of<FP8Tensor, Act>(a, a.amax, nullptr);
}
EXPORT_ACT(quantize_fp8_tensor_columns)
template <class Act> static void quantize_fp8_tensor_square(const quantize_fp8_tensor_square_args<Act>& a) {
  square_of<FP8Tensor>(a, a.x, IsBf16<Act>::value, a.amax, nullptr);
}
EXPORT_ACT(quantize_fp8_tensor_square)
