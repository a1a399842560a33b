// quantize_fp8_* and quantize_fp8_tensor_*: contracts in quantize.ts, launches in quantize_fp8.cuda.ts.
#include "fp8_cuda.h"

template <class A> __device__ Scaling scaling_of(const A& a, bool is_bf16) {
  Scaling s{a.limit};
  s.power_of_two = a.pow2;
  s.largest_source = is_bf16 ? LARGEST_BF16 : LARGEST_FLOAT;
  return s;
}

template <class Format, class Act, class A> __device__ Request<Format> request_of(const A& a, const float* amax) {
  return Request<Format>{a.codes, a.scales, amax, 0, a.signs, a.hadamard, a.random, a.stream, scaling_of(a, IsBf16<Act>::value)};
}
template <class Format, class A> __device__ Request<Format> square_request_of(const A& a, const float* amax, bool is_bf16) {
  return Request<Format>{a.codes, a.scales, amax, 0, nullptr, 0, a.random, a.stream, scaling_of(a, is_bf16)};
}

// Any rounding, rotation and dtype.
template <class Act, class A> __device__ void lines_of(const A& a, bool columns) {
  quantize_fp8_lines(request_of<FP8, Act>(a, nullptr), a.x, a.rows, a.cols, columns, a.rounding, a.amax);
}
template <class A, class T> __device__ void square_of(const A& a, const T* x, bool is_bf16) {
  const Request<FP8> q = square_request_of<FP8>(a, nullptr, is_bf16);
  Found found;
  GRID_LOOP(i, a.rows * a.cols) found.add(load(x + i));
  finish(found, a.amax);
  quantize_square(q, a.codes_t, a.scales_t, x, a.rows, a.cols, a.rounding);
}

template <class Act> __device__ void quantize_fp8_rows(const quantize_fp8_rows_args<Act>& a) { lines_of<Act>(a, false); }
EXPORT_CUDA_ACT(quantize_fp8_rows)
template <class Act> __device__ void quantize_fp8_columns(const quantize_fp8_columns_args<Act>& a) { lines_of<Act>(a, true); }
EXPORT_CUDA_ACT(quantize_fp8_columns)
template <class Act> __device__ void quantize_fp8_square(const quantize_fp8_square_args<Act>& a) {
  square_of(a, a.x, IsBf16<Act>::value);
}
EXPORT_CUDA_ACT(quantize_fp8_square)
template <class Act> __device__ void quantize_fp8_square_rounded(const quantize_fp8_square_args<Act>& a, void*) {
  if constexpr (!IsBf16<Act>::value) square_of(a, reinterpret_cast<const Rounded*>(a.x), true);
}
EXPORT_CUDA_ACT_ENTRY(quantize_fp8_square, rounded, 256)

template <class Act> struct BothRequests {
  Request<FP8> row, column;
  __device__ explicit BothRequests(const quantize_fp8_both_args<Act>& a) {
    const Scaling s = scaling_of(a, IsBf16<Act>::value);
    row = Request<FP8>{a.codes, a.scales, nullptr, 0, nullptr, 0, a.random, a.stream, s, Mapping(a)};
    column = Request<FP8>{a.codes_t, a.scales_t, nullptr, 0, a.signs, a.hadamard, a.random, a.stream_t, s, Mapping(a)};
  }
};
template <class Act> __device__ void quantize_fp8_both(const quantize_fp8_both_args<Act>& a) {
  const BothRequests<Act> q(a);
  quantize_fp8_lines(q.row, a.x, a.rows, a.cols, false, a.rounding, a.amax);
  quantize_fp8_lines(q.column, a.x, a.rows, a.cols, true, a.rounding, a.amax_t, 1);
}
EXPORT_CUDA_ACT(quantize_fp8_both)

// By tiles: to nearest, not rotated, as BF16. Those of FP32 values are launched for squares that round them alone.
template <bool Rows, bool Columns, class A> __device__ void tiles_of(const A& a) {
  const Request<FP8> q = request_of<FP8, bf16>(a, nullptr);
  quantize_fp8_tile<Rows, Columns>(q, q, a.x, a.rows, a.cols, a.amax, nullptr, a.hadamard);
}
template <class Act> __device__ void quantize_fp8_rows_tiles(const quantize_fp8_rows_args<Act>& a, void*) {
  if constexpr (IsBf16<Act>::value) tiles_of<true, false>(a);
}
EXPORT_CUDA_ACT_ENTRY(quantize_fp8_rows, tiles, 256, 4)
template <class Act> __device__ void quantize_fp8_columns_tiles(const quantize_fp8_columns_args<Act>& a, void*) {
  if constexpr (IsBf16<Act>::value) tiles_of<false, true>(a);
}
EXPORT_CUDA_ACT_ENTRY(quantize_fp8_columns, tiles, 256, 4)
template <class Act> __device__ void quantize_fp8_both_tiles(const quantize_fp8_both_args<Act>& a, void*) {
  if constexpr (IsBf16<Act>::value) {
    const BothRequests<Act> q(a);
    quantize_fp8_tile<true, true>(q.row, q.column, a.x, a.rows, a.cols, a.amax, a.amax_t, a.hadamard);
  }
}
EXPORT_CUDA_ACT_ENTRY(quantize_fp8_both, tiles, 256, 4)
template <class Act> __device__ void quantize_fp8_square_tiles(const quantize_fp8_square_args<Act>& a, void*) {
  const Request<FP8> q = square_request_of<FP8>(a, nullptr, true);
  if constexpr (IsBf16<Act>::value) quantize_fp8_square_tile(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.amax);
  else quantize_fp8_square_tile(q, a.codes_t, a.scales_t, reinterpret_cast<const Rounded*>(a.x), a.rows, a.cols, a.amax);
}
EXPORT_CUDA_ACT_ENTRY(quantize_fp8_square, tiles, 256, 2)

template <class Act> __device__ void quantize_fp8_tensor_rows(const quantize_fp8_tensor_rows_args<Act>& a) {
  quantize_lines(request_of<FP8Tensor, Act>(a, a.amax), a.x, a.rows, a.cols, false, a.rounding);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_rows)
template <class Act> __device__ void quantize_fp8_tensor_columns(const quantize_fp8_tensor_columns_args<Act>& a) {
  quantize_lines(request_of<FP8Tensor, Act>(a, a.amax), a.x, a.rows, a.cols, true, a.rounding);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_columns)
template <class Act> __device__ void quantize_fp8_tensor_square(const quantize_fp8_tensor_square_args<Act>& a) {
  quantize_square(square_request_of<FP8Tensor>(a, a.amax, IsBf16<Act>::value), a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.rounding);
}
EXPORT_CUDA_ACT(quantize_fp8_tensor_square)
