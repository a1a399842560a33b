// amax, amax_rotated, amax_both and amax_lines of amax.ts. Magnitudes are compared as bits; the largest of all tasks is the same in any order.
#include "panel_cpu.h"

static constexpr uint32_t infinite = 0x7f800000u;

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

template <class Act> static void amax_of(const Act* x, int64_t size, float* amax) {
  constexpr int64_t grain = 65536;
  const int64_t tasks = (size + grain - 1) / grain;
  Found* const found = static_cast<Found*>(scratch(0, tasks * (int64_t)sizeof(Found)));
  parallel_rows(size, grain, [&](int64_t begin, int64_t end) { found[begin / grain] = largest_of(x + begin, end - begin); });
  write_amax(amax, found, tasks);
}

template <class Act> static void amax(const amax_args<Act>& a) { amax_of(a.x, a.rows * a.cols, a.amax); }
EXPORT_ACT(amax)

// Magnitudes of x as mapped, if `plain` is wanted, and of the same rotated along its columns.
template <class Act>
static void amax_of_columns(const Act* x, const Mapping& mapping, int64_t rows, int64_t cols, const Rotation& rotation, float* plain,
                            float* rotated) {
  const int64_t panels = (cols + PANEL - 1) / PANEL, tasks = (rows + SPAN - 1) / SPAN * panels;
  Found* const found = static_cast<Found*>(scratch(0, 2 * tasks * (int64_t)sizeof(Found)));
  parallel_spans(rows, cols, [&](int64_t r, int count, int64_t from, int64_t to) {
    const auto each = [&](const auto& look, const auto& look_rotated) {
      each_piece(count, rotation.size ? rotation.size : 16, from, to, [&](int first, int n, int64_t c, int lanes, int) {
        Real v[SPAN];
        mapping.load_columns(v, x, r + first, c, cols, lanes, n);
        for (int i = 0; i < n; i++) look(v[i]);
        if (rotation.size) rotation.apply<IsBf16<Act>::value>(v, n);
        for (int i = 0; i < n; i++) look_rotated(v[i]);
      });
    };
    Word largest = Lanes::word(0), largest_rotated = Lanes::word(0);
    each([&](Real v) { largest = Lanes::larger(largest, Lanes::bits(v) & 0x7fffffffu); },
         [&](Real v) { largest_rotated = Lanes::larger(largest_rotated, Lanes::bits(v) & 0x7fffffffu); });
    const int64_t task = r / SPAN * panels + from / PANEL;
    found[task].finite = found[task].any = Lanes::largest(largest);
    found[tasks + task].finite = found[tasks + task].any = Lanes::largest(largest_rotated);
    if (found[task].any <= infinite && found[tasks + task].any <= infinite) return;
    Largest again, again_rotated;
    each([&](Real v) { again.add(v); }, [&](Real v) { again_rotated.add(v); });
    found[task] = found_in(again);
    found[tasks + task] = found_in(again_rotated);
  });
  if (plain) write_amax(plain, found, tasks);
  write_amax(rotated, found + tasks, tasks);
}

template <class Act> static void amax_both(const amax_both_args<Act>& a) {
  const Mapping mapping(a);
  if (a.hadamard || !mapping.is_identity()) {
    const Rotation rotation = a.hadamard ? Rotation(a.hadamard, a.signs) : Rotation();
    amax_of_columns(a.x, mapping, a.rows, a.cols, rotation, a.amax, a.amax_t);
    return;
  }
  amax_of(a.x, a.rows * a.cols, a.amax);
  for (int i = 0; i < 2; i++) a.amax_t[i] = a.amax[i];
}
EXPORT_ACT(amax_both)

template <class Act> static void amax_rotated(const amax_rotated_args<Act>& a) {
  const Rotation rotation(a.hadamard, a.signs);
  if (a.columns) {
    amax_of_columns(a.x, Mapping(), a.rows, a.cols, rotation, static_cast<float*>(nullptr), a.amax);
    return;
  }
  Found* const found = static_cast<Found*>(scratch(0, a.rows * (int64_t)sizeof(Found)));
  parallel_rows(a.rows, 1, [&](int64_t r, int64_t) {
    float* const z = static_cast<float*>(scratch(1, a.cols * 4));
    rotate_rows(z, a.x + r * a.cols, 1, a.cols, rotation);
    found[r] = largest_of(z, a.cols);
  });
  write_amax(a.amax, found, a.rows);
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
    write_amax(a.amax, found, panels);
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
  write_amax(a.amax, found, a.rows);
}
EXPORT_ACT(amax_lines)
