// quantize_nvfp4_eden_*: contracts in quantize.ts.
#include "sixteens_cuda.h"

template <class Act> __device__ void quantize_nvfp4_eden_rows(const quantize_nvfp4_eden_rows_args<Act>& a) {
  image_of_rows<Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols);
}
EXPORT_CUDA_ACT(quantize_nvfp4_eden_rows)

template <class Act> __device__ void quantize_nvfp4_eden_columns(const quantize_nvfp4_eden_columns_args<Act>& a) {
  image_of_columns<Rounding::eden>(request_of(a, Scaling{a.limit, a.bound}), a.x, a.rows, a.cols);
}
EXPORT_CUDA_ACT(quantize_nvfp4_eden_columns)
