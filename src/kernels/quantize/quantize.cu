// quantize_nvfp4_rows, _columns, _square, _both and their MS-EDEN forms: contracts in quantize.ts. Other formats: quantize_mx and quantize_fp8.
#include "quantize_cuda.h"

template <class A> __device__ Scaling scaling_of(const A& a) {
  Scaling s{a.limit, a.bound};
  s.multiply = a.scale_order;
  s.four_over_six = a.four_over_six;
  return s;
}

template <class A> __device__ Request<NVFP4> request_of(const A& a, const Scaling& s) {
  return Request<NVFP4>{a.codes, a.scales, a.amax, a.per_row, a.signs, a.hadamard, a.random, a.stream, s};
}

template <class Act> __device__ void quantize_nvfp4_rows(const quantize_nvfp4_rows_args<Act>& a) {
  quantize_lines(request_of(a, scaling_of(a)), a.x, a.rows, a.cols, false, a.rounding);
}
EXPORT_CUDA_ACT(quantize_nvfp4_rows)

template <class Act> __device__ void quantize_nvfp4_columns(const quantize_nvfp4_columns_args<Act>& a) {
  quantize_lines(request_of(a, scaling_of(a)), a.x, a.rows, a.cols, true, a.rounding);
}
EXPORT_CUDA_ACT(quantize_nvfp4_columns)

template <class Act> __device__ void quantize_nvfp4_eden_rows(const quantize_nvfp4_eden_rows_args<Act>& a) {
  quantize_lines<NVFP4, Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols, false);
}
EXPORT_CUDA_ACT(quantize_nvfp4_eden_rows)

template <class Act> __device__ void quantize_nvfp4_eden_columns(const quantize_nvfp4_eden_columns_args<Act>& a) {
  quantize_lines<NVFP4, Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols, true);
}
EXPORT_CUDA_ACT(quantize_nvfp4_eden_columns)

template <class Act> __device__ void quantize_nvfp4_square(const quantize_nvfp4_square_args<Act>& a) {
  const Request<NVFP4> q{a.codes, a.scales, a.amax, 0, nullptr, 0, a.random, a.stream, scaling_of(a)};
  quantize_square(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.rounding);
}
EXPORT_CUDA_ACT(quantize_nvfp4_square)

template <class Act> __device__ void quantize_nvfp4_both(const quantize_nvfp4_both_args<Act>& a) {
  quantize_both<NVFP4>(a, a.amax, a.amax_t, scaling_of(a));
}
EXPORT_CUDA_ACT(quantize_nvfp4_both)
