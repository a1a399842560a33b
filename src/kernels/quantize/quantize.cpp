// quantize_nvfp4_rows, _columns, _square, _both and their MS-EDEN forms: contracts in quantize.ts. Other formats: quantize_mx and quantize_fp8.
#include "square_cpu.h"

template <class A> static Scaling scaling_of(const A& a) {
  Scaling s{a.limit, a.bound};
  s.multiply = a.scale_order;
  s.four_over_six = a.four_over_six;
  return s;
}

template <class A> static Request<NVFP4> request_of(const A& a, const Scaling& s) {
  return Request<NVFP4>{a.codes, a.scales, a.amax, a.per_row, a.signs, a.hadamard, Draw(a.random, a.stream), s};
}

template <class Act> static void quantize_nvfp4_rows(const quantize_nvfp4_rows_args<Act>& a) {
  quantize_rows(request_of(a, scaling_of(a)), a.rounding != 0, a.x, a.rows, a.cols);
}
EXPORT_ACT(quantize_nvfp4_rows)

template <class Act> static void quantize_nvfp4_columns(const quantize_nvfp4_columns_args<Act>& a) {
  quantize_columns(request_of(a, scaling_of(a)), a.rounding != 0, a.x, a.rows, a.cols);
}
EXPORT_ACT(quantize_nvfp4_columns)

template <class Act> static void quantize_nvfp4_eden_rows(const quantize_nvfp4_eden_rows_args<Act>& a) {
  quantize_rows<NVFP4, Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols);
}
EXPORT_ACT(quantize_nvfp4_eden_rows)

template <class Act> static void quantize_nvfp4_eden_columns(const quantize_nvfp4_eden_columns_args<Act>& a) {
  quantize_columns<NVFP4, Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols);
}
EXPORT_ACT(quantize_nvfp4_eden_columns)

template <class Act> static void quantize_nvfp4_square(const quantize_nvfp4_square_args<Act>& a) {
  const Request<NVFP4> q{a.codes, a.scales, a.amax, 0, nullptr, 0, Draw(a.random, a.stream), scaling_of(a)};
  quantize_square(q, a.rounding != 0, a.codes_t, a.scales_t, a.x, a.rows, a.cols);
}
EXPORT_ACT(quantize_nvfp4_square)

template <class Act> static void quantize_nvfp4_both(const quantize_nvfp4_both_args<Act>& a) {
  quantize_both<NVFP4>(a, a.amax, a.amax_t, scaling_of(a));
}
EXPORT_ACT(quantize_nvfp4_both)
