// pack.ts: one thread for each quad and for each scale.
#include "gemm_cuda.h"

template <class Args, class Scale> __device__ void pack(const Args& a, int words, const Scale& scale_of) {
  const int64_t per_block = (2 * words + 1) * a.columns;
  GRID_LOOP(u, a.panels * a.blocks * per_block) {
    const int64_t panel = u / per_block / a.blocks, block = u / per_block % a.blocks;
    const int64_t quad = u % per_block / a.columns, column = u % a.columns, row = panel * a.columns + column;
    uint32_t word = quad < 2 * words ? 0x0c0c0c0cu : 0u;
    if (row < a.n) {
      const int64_t at = row * a.blocks + block;
      if (quad == 2 * words) word = __float_as_uint(scale_of(a.scales[at]));
      else {
        word = 0;
        for (int i = 0; i < 4; i++) {
          const int pair = a.codes[(at * words + quad / 2) * 4 + i];
          word |= (uint32_t)(int)(2.0f * decode<One, E2M1>(quad % 2 ? pair >> 4 : pair & 15) + 12.0f) << (8 * i);
        }
      }
    }
    reinterpret_cast<uint32_t*>(a.packed)[u] = word;
  }
}

__device__ void run_pack_nvfp4(const pack_nvfp4_args& a) {
  pack(a, 2, [](uint8_t code) { return decode<One, E4M3>(code); });
}
EXPORT_CUDA(pack_nvfp4)
__device__ void run_pack_mxfp4(const pack_mxfp4_args& a) {
  pack(a, 4, [](uint8_t code) { return ue8m0_value(code); });
}
EXPORT_CUDA(pack_mxfp4)
