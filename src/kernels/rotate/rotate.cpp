// rotate.ts.
#include "panel_cpu.h"

template <class Act> static void rotate(const rotate_args<Act>& a) {
  const Rotation rotation(a.hadamard, a.signs);
  if (!a.columns) {
    parallel_rows(a.rows, a.cols >= 32768 ? 1 : 32768 / a.cols, [&](int64_t begin, int64_t end) {
      rotate_rows(a.y + begin * a.cols, a.x + begin * a.cols, end - begin, a.cols, rotation);
    });
    return;
  }
  parallel_spans(a.rows, a.cols, [&](int64_t r, int count, int64_t from, int64_t to) {
    each_piece(count, a.hadamard, from, to, [&](int first, int n, int64_t c, int lanes, int) {
      Real v[SPAN];
      load_panel(v, a.x + (r + first) * a.cols + c, a.cols, lanes, n);
      rotation.apply<IsBf16<Act>::value>(v, n);
      for (int i = 0; i < n; i++) {
        float one[Lanes::width];
        Lanes::store(one, v[i]);
        for (int l = 0; l < lanes; l++) store(a.y + (r + first + i) * a.cols + c + l, one[l]);
      }
    });
  });
}
EXPORT_ACT(rotate)
