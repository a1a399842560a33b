// amax, amax_rotated and amax_lines of amax.ts. Magnitudes are compared as bits; the largest of all tasks is the same in any order.
#include "panel_cpu.h"

static constexpr uint32_t infinite = 0x7f800000u;

// What one task found: the largest magnitude that is not NaN, and the largest bits.
struct Found {
  uint32_t finite, any;
};

static Found found_in(const Largest& largest) { return {Lanes::largest(largest.finite), Lanes::largest(largest.any)}; }

static void write(float* amax, const Found* found, int64_t tasks) {
  uint32_t finite = 0, any = 0;
  for (int64_t t = 0; t < tasks; t++) {
    finite = found[t].finite > finite ? found[t].finite : finite;
    any = found[t].any > any ? found[t].any : any;
  }
  amax[0] = float_of(finite);
  amax[1] = any >= infinite ? 1.0f : 0.0f;
}

// NaN is looked for only where the largest bits say that there is one.
template <class T> static Found largest_of(const T* x, int64_t size) {
  constexpr int W = Lanes::width;
  Word any[4] = {};
  int64_t i = 0;
  for (; i + 4 * W <= size; i += 4 * W)
    for (int k = 0; k < 4; k++) any[k] = Lanes::larger(any[k], Lanes::bits(fetch(x + i + k * W)) & 0x7fffffffu);
  uint32_t largest = Lanes::largest(Lanes::larger(Lanes::larger(any[0], any[1]), Lanes::larger(any[2], any[3])));
  for (; i < size; i++) {
    const uint32_t a = bits_of(load(x + i)) & 0x7fffffffu;
    largest = a > largest ? a : largest;
  }
  if (largest <= infinite) return {largest, largest};
  uint32_t finite = 0;
  for (i = 0; i < size; i++) {
    const uint32_t a = bits_of(load(x + i)) & 0x7fffffffu;
    if (a <= infinite && a > finite) finite = a;
  }
  return {finite, largest};
}

template <class Act> static void amax(const amax_args<Act>& a) {
  constexpr int64_t grain = 65536;
  const int64_t size = a.rows * a.cols, tasks = (size + grain - 1) / grain;
  Found* const found = static_cast<Found*>(scratch(0, tasks * (int64_t)sizeof(Found)));
  parallel_rows(size, grain, [&](int64_t begin, int64_t end) { found[begin / grain] = largest_of(a.x + begin, end - begin); });
  write(a.amax, found, tasks);
}
EXPORT_ACT(amax)

template <class Act> static void amax_rotated(const amax_rotated_args<Act>& a) {
  const Rotation rotation(a.hadamard, a.signs);
  if (a.columns) {
    const int64_t panels = (a.cols + PANEL - 1) / PANEL, tasks = (a.rows + SPAN - 1) / SPAN * panels;
    Found* const found = static_cast<Found*>(scratch(0, tasks * (int64_t)sizeof(Found)));
    parallel_spans(a.rows, a.cols, [&](int64_t r, int count, int64_t from, int64_t to) {
      Word largest = Lanes::word(0);
      const auto each = [&](const auto& look) {
        each_piece(count, a.hadamard, from, to, [&](int first, int n, int64_t c, int lanes, int) {
          Real v[SPAN];
          load_panel(v, a.x + (r + first) * a.cols + c, a.cols, lanes, n);
          rotation.apply<IsBf16<Act>::value>(v, n);
          for (int i = 0; i < n; i++) look(v[i]);
        });
      };
      each([&](Real v) { largest = Lanes::larger(largest, Lanes::bits(v) & 0x7fffffffu); });
      Found& own = found[r / SPAN * panels + from / PANEL];
      own.finite = own.any = Lanes::largest(largest);
      if (own.any <= infinite) return;
      Largest again;
      each([&](Real v) { again.add(v); });
      own = found_in(again);
    });
    write(a.amax, found, tasks);
    return;
  }
  Found* const found = static_cast<Found*>(scratch(0, a.rows * (int64_t)sizeof(Found)));
  parallel_rows(a.rows, 1, [&](int64_t r, int64_t) {
    float* const z = static_cast<float*>(scratch(1, a.cols * 4));
    rotate_rows(z, a.x + r * a.cols, 1, a.cols, rotation);
    found[r] = largest_of(z, a.cols);
  });
  write(a.amax, found, a.rows);
}
EXPORT_ACT(amax_rotated)

template <class Act> static void amax_lines(const amax_lines_args<Act>& a) {
  const Rotation rotation = a.hadamard ? Rotation(a.hadamard, a.signs) : Rotation();
  if (a.columns) {
    const int64_t panels = (a.cols + Lanes::width - 1) / Lanes::width;
    Found* const found = static_cast<Found*>(scratch(0, panels * (int64_t)sizeof(Found)));
    parallel_for(panels, [&](int64_t task) {
      const int64_t c = task * Lanes::width;
      const int lanes = (int)(a.cols - c < Lanes::width ? a.cols - c : Lanes::width);
      Largest largest;
      for (int64_t r = 0; r < a.rows; r += SPAN) {
        const int count = (int)(a.rows - r < SPAN ? a.rows - r : SPAN);
        Real v[SPAN];
        load_panel(v, a.x + r * a.cols + c, a.cols, lanes, count);
        if (a.hadamard) rotation.apply<IsBf16<Act>::value>(v, count);
        for (int i = 0; i < count; i++) largest.add(v[i]);
      }
      for (int l = 0; l < lanes; l++) a.largest[c + l] = float_of(largest.finite[l]);
      found[task] = found_in(largest);
    });
    write(a.amax, found, panels);
    return;
  }
  Found* const found = static_cast<Found*>(scratch(0, a.rows * (int64_t)sizeof(Found)));
  parallel_rows(a.rows, 1, [&](int64_t r, int64_t) {
    if (a.hadamard) {
      float* const z = static_cast<float*>(scratch(1, a.cols * 4));
      rotate_rows(z, a.x + r * a.cols, 1, a.cols, rotation);
      found[r] = largest_of(z, a.cols);
    } else {
      found[r] = largest_of(a.x + r * a.cols, a.cols);
    }
    a.largest[r] = float_of(found[r].finite);
  });
  write(a.amax, found, a.rows);
}
EXPORT_ACT(amax_lines)
