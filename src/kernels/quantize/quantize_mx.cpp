// quantize_mxfp4_* and quantize_mxfp8_*: contracts in quantize.ts.
#include "square_cpu.h"

template <class A> static Scaling scaling_of(const A& a) {
  Scaling s{a.limit};
  s.floor = a.floor;
  return s;
}

template <class Format, class A> static Request<Format> lines_of(const A& a) {
  return {a.codes, a.scales, nullptr, 0, a.signs, a.hadamard, Draw(a.random, a.stream), scaling_of(a)};
}

template <class Format, class A> static void rows_of(const A& a) {
  quantize_rows(lines_of<Format>(a), a.rounding != 0, a.x, a.rows, a.cols);
}

template <class Format, class A> static void columns_of(const A& a) {
  quantize_columns(lines_of<Format>(a), a.rounding != 0, a.x, a.rows, a.cols);
}

template <class Format, class A> static void square_of(const A& a) {
  const Request<Format> q{a.codes, a.scales, nullptr, 0, nullptr, 0, Draw(a.random, a.stream), scaling_of(a)};
  quantize_square(q, a.rounding != 0, a.codes_t, a.scales_t, a.x, a.rows, a.cols);
}

template <class Act> static void quantize_mxfp4_rows(const quantize_mxfp4_rows_args<Act>& a) { rows_of<MXFP4>(a); }
EXPORT_ACT(quantize_mxfp4_rows)
template <class Act> static void quantize_mxfp4_columns(const quantize_mxfp4_columns_args<Act>& a) { columns_of<MXFP4>(a); }
EXPORT_ACT(quantize_mxfp4_columns)
template <class Act> static void quantize_mxfp4_square(const quantize_mxfp4_square_args<Act>& a) { square_of<MXFP4>(a); }
EXPORT_ACT(quantize_mxfp4_square)
template <class Act> static void quantize_mxfp8_rows(const quantize_mxfp8_rows_args<Act>& a) { rows_of<MXFP8>(a); }
EXPORT_ACT(quantize_mxfp8_rows)
template <class Act> static void quantize_mxfp8_columns(const quantize_mxfp8_columns_args<Act>& a) { columns_of<MXFP8>(a); }
EXPORT_ACT(quantize_mxfp8_columns)
template <class Act> static void quantize_mxfp8_square(const quantize_mxfp8_square_args<Act>& a) { square_of<MXFP8>(a); }
EXPORT_ACT(quantize_mxfp8_square)
template <class Act> static void quantize_mxfp4_both(const quantize_mxfp4_both_args<Act>& a) {
  quantize_both<MXFP4>(a, nullptr, nullptr, scaling_of(a));
}
EXPORT_ACT(quantize_mxfp4_both)
template <class Act> static void quantize_mxfp8_both(const quantize_mxfp8_both_args<Act>& a) {
  quantize_both<MXFP8>(a, nullptr, nullptr, scaling_of(a));
}
EXPORT_ACT(quantize_mxfp8_both)
