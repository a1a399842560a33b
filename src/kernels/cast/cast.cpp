// cast.ts.
#include "lanes_cpu.h"
#include "cpu.h"

static void run_cast(const cast_args& a) {
  constexpr int W = Lanes::width;
  const float* x = static_cast<const float*>(a.x);
  const bf16* half = static_cast<const bf16*>(a.x);
  float* y = static_cast<float*>(a.y);
  bf16* rounded = static_cast<bf16*>(a.y);
  parallel_rows(a.size, 65536, [&](int64_t begin, int64_t end) {
    if (a.x_is_bf16 == a.y_is_bf16) {
      const int64_t bytes = a.x_is_bf16 ? 2 : 4;
      memcpy(static_cast<char*>(a.y) + begin * bytes, static_cast<const char*>(a.x) + begin * bytes, (end - begin) * bytes);
      return;
    }
    int64_t i = begin;
    if (a.x_is_bf16) {
      for (; i + W <= end; i += W) Lanes::store(y + i, Lanes::load(half + i));
      for (; i < end; i++) y[i] = load(half + i);
    } else {
      for (; i + W <= end; i += W) Lanes::store_bf16(rounded + i, Lanes::load(x + i));
      for (; i < end; i++) store(rounded + i, x[i]);
    }
  });
}
EXPORT(cast)
