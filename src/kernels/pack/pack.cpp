// pack.ts. Panels of as many columns as this level's products read are unpacked as for those; others one value after another.
#include "gemm_fp4.h"

namespace {

// One panel of rows first .. of the image, of any number of columns.
template <class Format> void unpack_slowly(const CodedOperand& x, int64_t first, int64_t columns, uint8_t* to) {
  for (int64_t i = 0; i < x.blocks; i++) {
    for (int quad = 0; quad < 2 * Format::words; quad++)
      for (int64_t column = 0; column < columns; column++)
        for (int byte = 0; byte < 4; byte++) {
          const int64_t row = first + column;
          const int pair = row < x.rows ? x.codes[((row * x.blocks + i) * Format::words + quad / 2) * 4 + byte] : 0;
          *to++ = (uint8_t)(e2m1_doubled(quad % 2 ? pair >> 4 : pair & 15) + 12);
        }
    for (int64_t column = 0; column < columns; column++, to += 4) {
      const int64_t row = first + column;
      const float scale = row < x.rows ? scale_values<Format>.of_code[x.scales[row * x.blocks + i]] : 0.0f;
      memcpy(to, &scale, 4);
    }
  }
}

template <class Format, class Args> void pack(const Args& a) {
  const CodedOperand x{a.codes, a.scales, a.n, a.blocks};
  const int64_t stride = a.blocks * a.columns * (8 * Format::words + 4);
  parallel_for(a.panels, [&](int64_t panel) {
    const int64_t first = panel * a.columns, left = a.n - first;
    uint8_t* const to = a.packed + panel * stride;
    if constexpr (fp4_panels_are_packed)
      if (a.columns == fp4_columns)
        return unpack_b<Format>(x, first, left < fp4_columns ? left : fp4_columns, reinterpret_cast<char*>(to));
    unpack_slowly<Format>(x, first, a.columns, to);
  });
}

}  // namespace

static void run_pack_nvfp4(const pack_nvfp4_args& a) { pack<Nvfp4>(a); }
EXPORT(pack_nvfp4)
static void run_pack_mxfp4(const pack_mxfp4_args& a) { pack<Mxfp4>(a); }
EXPORT(pack_mxfp4)
