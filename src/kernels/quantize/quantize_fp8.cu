// quantize_fp8_* and quantize_fp8_tensor_*: contracts in quantize.ts.
#include "fp8_cuda.h"

template <class Act, class A> __device__ Scaling scaling_of(const A& a) {
  Scaling s{a.limit};
  s.power_of_two = a.pow2;
  s.largest_source = IsBf16<Act>::value ? LARGEST_BF16 : LARGEST_FLOAT;
  return s;
}

template <class Format, class Act, class A> __device__ void lines_of(const A& a, const float* amax, bool columns) {
  const Request<Format> q{a.codes, a.scales, amax, 0, a.signs, a.hadamard, a.random, a.stream, scaling_of<Act>(a)};
  if constexpr (IsBf16<Act>::value && !Format::whole)
    if (!a.rounding && !a.hadamard) {
      if (!columns && a.cols % 8 == 0 && in_sixteens(a.x)) return quantize_fp8_rows_by_lanes(q, a.x, a.rows, a.cols);
      if (columns && in_tiles(a.x, a.rows, a.cols)) return quantize_fp8_columns_by_tiles(q, a.x, a.rows, a.cols);
    }
  quantize_lines(q, a.x, a.rows, a.cols, columns, a.rounding);
}

template <class Format, class Act, class A> __device__ void square_of(const A& a, const float* amax) {
  const Request<Format> q{a.codes, a.scales, amax, 0, nullptr, 0, a.random, a.stream, scaling_of<Act>(a)};
  if constexpr (IsBf16<Act>::value && !Format::whole)
    if (!a.rounding && in_tiles(a.x, a.rows, a.cols) && a.cols % 128 == 0)
      return quantize_fp8_square_by_tiles(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols);
  quantize_square(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.rounding);
}

template <class Act> __device__ void quantize_fp8_rows(const quantize_fp8_rows_args<Act>& a) {
  lines_of<FP8, Act>(a, nullptr, false);
}
EXPORT_CUDA_ACT(quantize_fp8_rows)
template <class Act> __device__ void quantize_fp8_columns(const quantize_fp8_columns_args<Act>& a) {
  lines_of<FP8, Act>(a, nullptr, true);
}
EXPORT_CUDA_ACT(quantize_fp8_columns)
template <class Act> __device__ void quantize_fp8_square(const quantize_fp8_square_args<Act>& a) {
  square_of<FP8, Act>(a, nullptr);
}
EXPORT_CUDA_ACT(quantize_fp8_square)
template <class Act> __device__ void quantize_fp8_both(const quantize_fp8_both_args<Act>& a) {
  const Scaling s = scaling_of<Act>(a);
  const Request<FP8> row{a.codes, a.scales, nullptr, 0, nullptr, 0, a.random, a.stream, s};
  const Request<FP8> column{a.codes_t, a.scales_t, nullptr, 0, a.signs, a.hadamard, a.random, a.stream_t, s};
  if constexpr (IsBf16<Act>::value)
    if (!a.rounding && !a.hadamard && in_tiles(a.x, a.rows, a.cols) && a.cols % 128 == 0)
      return quantize_fp8_columns_by_tiles(column, a.x, a.rows, a.cols, &row);
  quantize_lines(row, a.x, a.rows, a.cols, false, a.rounding);
  quantize_lines(column, a.x, a.rows, a.cols, true, a.rounding);
}
EXPORT_CUDA_ACT(quantize_fp8_both)
template <class Act> __device__ void quantize_fp8_tensor_rows(const quantize_fp8_tensor_rows_args<Act>& a) {
  lines_of<FP8Tensor, Act>(a, a.amax, false);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_rows)
template <class Act> __device__ void quantize_fp8_tensor_columns(const quantize_fp8_tensor_columns_args<Act>& a) {
  lines_of<FP8Tensor, Act>(a, a.amax, true);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_columns)
template <class Act> __device__ void quantize_fp8_tensor_square(const quantize_fp8_tensor_square_args<Act>& a) {
  square_of<FP8Tensor, Act>(a, a.amax);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_square)
