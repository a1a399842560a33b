// quantize_nvfp4_rows, _columns, _square and _both: contracts in quantize.ts. MS-EDEN: quantize_eden; other formats: quantize_mx and quantize_fp8.
#include "sixteens_cuda.h"

// As many blocks a multiprocessor as hide what they wait for, without registers that spill.
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 4) quantize_nvfp4_rows_bf16(quantize_nvfp4_rows_args<bf16> a);)
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 4) quantize_nvfp4_columns_bf16(quantize_nvfp4_columns_args<bf16> a);)
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 4) quantize_nvfp4_square_bf16(quantize_nvfp4_square_args<bf16> a);)
FOR_BF16(extern "C" __global__ void __launch_bounds__(256, 3) quantize_nvfp4_both_bf16(quantize_nvfp4_both_args<bf16> a);)

template <class A> __device__ Scaling scaling_of(const A& a) {
  Scaling s{a.limit, a.bound};
  s.multiply = a.scale_order;
  s.four_over_six = a.four_over_six;
  return s;
}

template <class Act> __device__ void quantize_nvfp4_rows(const quantize_nvfp4_rows_args<Act>& a) {
  const Request<NVFP4> q = request_of(a, scaling_of(a));
  if (a.rounding) image_of_rows<Rounding::stochastic>(q, a.x, a.rows, a.cols);
  else image_of_rows<Rounding::nearest>(q, a.x, a.rows, a.cols);
}
EXPORT_CUDA_ACT(quantize_nvfp4_rows)

template <class Act> __device__ void quantize_nvfp4_columns(const quantize_nvfp4_columns_args<Act>& a) {
  const Request<NVFP4> q = request_of(a, scaling_of(a));
  if (a.rounding) image_of_columns<Rounding::stochastic>(q, a.x, a.rows, a.cols);
  else image_of_columns<Rounding::nearest>(q, a.x, a.rows, a.cols);
}
EXPORT_CUDA_ACT(quantize_nvfp4_columns)

template <class Act> __device__ void quantize_nvfp4_square(const quantize_nvfp4_square_args<Act>& a) {
  const Request<NVFP4> q{a.codes, a.scales, a.amax, 0, nullptr, 0, a.random, a.stream, scaling_of(a)};
  if constexpr (IsBf16<Act>::value)
    if (!a.rounding && !a.four_over_six && in_blocks(a.x, a.rows, a.cols)) {
      quantize_square_by_sixteens(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols);
      return;
    }
  quantize_square(q, a.codes_t, a.scales_t, a.x, a.rows, a.cols, a.rounding);
}
EXPORT_CUDA_ACT(quantize_nvfp4_square)

template <Rounding How, class Act>
__device__ void images_of_both(const Request<NVFP4>& row, const Request<NVFP4>& column, const Act* x, int64_t rows, int64_t cols) {
  if constexpr (IsBf16<Act>::value)
    if (columns_by_sixteens(column, x, rows, cols)) return quantize_columns_by_sixteens<How, true>(column, x, rows, cols, &row);
  image_of_rows<How>(row, x, rows, cols);
  image_of_columns<How>(column, x, rows, cols);
}

template <class Act> __device__ void quantize_nvfp4_both(const quantize_nvfp4_both_args<Act>& a) {
  const Scaling s = scaling_of(a);
  const Request<NVFP4> row{a.codes, a.scales, a.amax, 0, nullptr, 0, a.random, a.stream, s, Mapping(a)};
  const Request<NVFP4> column{a.codes_t, a.scales_t, a.amax_t, 0, a.signs, a.hadamard, a.random, a.stream_t, s, Mapping(a)};
  if (a.rounding) images_of_both<Rounding::stochastic>(row, column, a.x, a.rows, a.cols);
  else images_of_both<Rounding::nearest>(row, column, a.x, a.rows, a.cols);
}
EXPORT_CUDA_ACT(quantize_nvfp4_both)
