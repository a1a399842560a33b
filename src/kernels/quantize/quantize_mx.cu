// quantize_mxfp4_* and quantize_mxfp8_*: contracts in quantize.ts.
#include "quantize_cuda.h"

template <class A> __device__ Scaling scaling_of(const A& a) {
  Scaling s{a.limit};
  s.floor = a.floor;
  return s;
}

template <class Format, class A> __device__ void lines_of(const A& a, bool columns) {
  const Request<Format> q{a.codes, a.scales, nullptr, 0, a.signs, a.hadamard, a.random, a.stream, scaling_of(a)};
  quantize_lines(q, a.x, a.rows, a.cols, columns, a.rounding);
}

template <class Format, class A> __device__ void square_of(const A& a) {
  const Request<Format> q{a.codes, a.scales, nullptr, 0, nullptr, 0, a.random, a.stream, scaling_of(a)};
  quantize_square(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.rounding);
}

template <class Act> __device__ void quantize_mxfp4_rows(const quantize_mxfp4_rows_args<Act>& a) { lines_of<MXFP4>(a, false); }
EXPORT_CUDA_ACT(quantize_mxfp4_rows)
template <class Act> __device__ void quantize_mxfp4_columns(const quantize_mxfp4_columns_args<Act>& a) { lines_of<MXFP4>(a, true); }
EXPORT_CUDA_ACT(quantize_mxfp4_columns)
template <class Act> __device__ void quantize_mxfp4_square(const quantize_mxfp4_square_args<Act>& a) { square_of<MXFP4>(a); }
EXPORT_CUDA_ACT(quantize_mxfp4_square)
template <class Act> __device__ void quantize_mxfp8_rows(const quantize_mxfp8_rows_args<Act>& a) { lines_of<MXFP8>(a, false); }
EXPORT_CUDA_ACT(quantize_mxfp8_rows)
template <class Act> __device__ void quantize_mxfp8_columns(const quantize_mxfp8_columns_args<Act>& a) { lines_of<MXFP8>(a, true); }
EXPORT_CUDA_ACT(quantize_mxfp8_columns)
template <class Act> __device__ void quantize_mxfp8_square(const quantize_mxfp8_square_args<Act>& a) { square_of<MXFP8>(a); }
EXPORT_CUDA_ACT(quantize_mxfp8_square)

template <class Act> __device__ void quantize_mxfp4_both(const quantize_mxfp4_both_args<Act>& a) {
  quantize_both<MXFP4>(a, nullptr, nullptr, scaling_of(a));
}
EXPORT_CUDA_ACT(quantize_mxfp4_both)

template <class Act> __device__ void quantize_mxfp8_both(const quantize_mxfp8_both_args<Act>& a) {
  quantize_both<MXFP8>(a, nullptr, nullptr, scaling_of(a));
}
EXPORT_CUDA_ACT(quantize_mxfp8_both)
