// quantize_fp8_* and quantize_fp8_tensor_*: contracts in quantize.ts.
#include "square_cpu.h"

template <class Act, class A> static Scaling scaling_of(const A& a) {
  Scaling s{a.limit};
  s.power_of_two = a.pow2;
  s.largest_source = IsBf16<Act>::value ? LARGEST_BF16 : LARGEST_FLOAT;
  return s;
}

template <class Format, class Act, class A> static void rows_of(const A& a, const float* amax) {
  const Request<Format> q{a.codes, a.scales, amax, 0, a.signs, a.hadamard, Draw(a.random, a.stream), scaling_of<Act>(a)};
  if (a.rounding) quantize_rows<Format, Rounding::stochastic>(q, a.x, a.rows, a.cols);
  else quantize_rows<Format, Rounding::nearest>(q, a.x, a.rows, a.cols);
}

template <class Format, class Act, class A> static void columns_of(const A& a, const float* amax) {
  const Request<Format> q{a.codes, a.scales, amax, 0, a.signs, a.hadamard, Draw(a.random, a.stream), scaling_of<Act>(a)};
  if (a.rounding) quantize_columns<Format, Rounding::stochastic>(q, a.x, a.rows, a.cols);
  else quantize_columns<Format, Rounding::nearest>(q, a.x, a.rows, a.cols);
}

template <class Format, class Act, class A> static void square_of(const A& a, const float* amax) {
  const Request<Format> q{a.codes, a.scales, amax, 0, nullptr, 0, Draw(a.random, a.stream), scaling_of<Act>(a)};
  quantize_square(q, a.rounding != 0, a.codes_t, a.scales_t, a.x, a.rows, a.cols);
}

template <class Act> static void quantize_fp8_rows(const quantize_fp8_rows_args<Act>& a) { rows_of<FP8, Act>(a, nullptr); }
EXPORT_ACT(quantize_fp8_rows)
template <class Act> static void quantize_fp8_columns(const quantize_fp8_columns_args<Act>& a) { columns_of<FP8, Act>(a, nullptr); }
EXPORT_ACT(quantize_fp8_columns)
template <class Act> static void quantize_fp8_square(const quantize_fp8_square_args<Act>& a) { square_of<FP8, Act>(a, nullptr); }
EXPORT_ACT(quantize_fp8_square)
// In two passes: 128 rows would not stay in the first cache.
template <class Act> static void quantize_fp8_both(const quantize_fp8_both_args<Act>& a) {
  const Scaling s = scaling_of<Act>(a);
  const Request<FP8> row{a.codes, a.scales, nullptr, 0, nullptr, 0, Draw(a.random, a.stream), s};
  const Request<FP8> column{a.codes_t, a.scales_t, nullptr, 0, a.signs, a.hadamard, Draw(a.random, a.stream_t), s};
  if (a.rounding) {
    quantize_rows<FP8, Rounding::stochastic>(row, a.x, a.rows, a.cols);
    quantize_columns<FP8, Rounding::stochastic>(column, a.x, a.rows, a.cols);
  } else {
    quantize_rows<FP8, Rounding::nearest>(row, a.x, a.rows, a.cols);
    quantize_columns<FP8, Rounding::nearest>(column, a.x, a.rows, a.cols);
  }
}
EXPORT_ACT(quantize_fp8_both)

template <class Act> static void quantize_fp8_tensor_rows(const quantize_fp8_tensor_rows_args<Act>& a) {
  rows_of<FP8Tensor, Act>(a, a.amax);
}
EXPORT_ACT(quantize_fp8_tensor_rows)
template <class Act> static void quantize_fp8_tensor_columns(const quantize_fp8_tensor_columns_args<Act>& a) {
  columns_of<FP8Tensor, Act>(a, a.amax);
}
EXPORT_ACT(quantize_fp8_tensor_columns)
template <class Act> static void quantize_fp8_tensor_square(const quantize_fp8_tensor_square_args<Act>& a) {
  square_of<FP8Tensor, Act>(a, a.amax);
}
EXPORT_ACT(quantize_fp8_tensor_square)
