// add.ts: one pass over memory.
#include "cpu.h"

template <class Act> static void add(const add_args<Act>& a) {
  parallel_rows(a.n, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) store(a.y + i, load(a.a + i) + load(a.b + i));
  });
}
EXPORT_ACT(add)
