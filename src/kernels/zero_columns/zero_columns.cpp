// zero_columns.ts
#include "cpu.h"

template <class Act> static void zero_columns(const zero_columns_args<Act>& a) {
  parallel_rows(a.rows, 256, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t c = a.first; c < a.width; c++) store(a.x + r * a.width + c, 0.0f);
  });
}
EXPORT_ACT(zero_columns)
