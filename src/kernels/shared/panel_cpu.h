// Pieces of a matrix in vector registers, one line to a lane, and their rotation.
//
// A piece is an array of vectors: vector i holds element i of every lane. A lane is a run of a row (loaded by transposition) or a
// run of a column (loaded as it lies). Missing lanes are zeros.
#pragma once
#include "cpu.h"
#include "lanes_cpu.h"

typedef Lanes::Real Real;
typedef Lanes::Word Word;

// Longest piece: the longest block and the longest rotation.
static constexpr int SPAN = 128;

inline Real fetch(const float* p) { return Lanes::load(p); }
inline Real fetch(const bf16* p) { return Lanes::load(p); }
inline Real fetch(const Rounded* p) { return Lanes::round_to_bf16(Lanes::load(&p->value)); }

// What load_lines and load_panel make of a vector that they have read: nothing.
struct AsItIs {
  Real operator()(Real x, int, int = 0) const { return x; }
};

// Lane l is x[l * stride + 0 .. length), each vector made by f(elements i .. of lane l, l, i).
template <class T, class F = AsItIs> inline void load_lines(Real* v, const T* x, int64_t stride, int lanes, int length, const F& f = F()) {
  constexpr int W = Lanes::width;
  if (lanes == W && length % W == 0) {
    for (int i = 0; i < length; i += W) {
      for (int l = 0; l < W; l++) v[i + l] = f(fetch(x + l * stride + i), l, i);
      Lanes::transpose(v + i);
    }
    return;
  }
  for (int i = 0; i < length; i += W) {
    const int n = length - i < W ? length - i : W;
    T padded[W * W] = {};
    for (int l = 0; l < lanes; l++)
      for (int k = 0; k < n; k++) padded[l * W + k] = x[l * stride + i + k];
    Real t[W];
    for (int l = 0; l < W; l++) t[l] = l < lanes ? f(fetch(padded + l * W), l, i) : Real{};
    Lanes::transpose(t);
    for (int k = 0; k < n; k++) v[i + k] = t[k];
  }
}

// The inverse: writes lane l to z[l * stride + 0 .. length).
template <class T> inline void store_lines(T* z, int64_t stride, int lanes, int length, const Real* v) {
  constexpr int W = Lanes::width;
  for (int i = 0; i < length; i++) {
    float one[W];
    Lanes::store(one, v[i]);
    for (int l = 0; l < lanes; l++) store(z + l * stride + i, one[l]);
  }
}

// Vector i is x[i * pitch + 0 .. lanes), made by f(it, i). What later panels will read is fetched meanwhile: the strides hide it from the hardware.
template <class T, class F = AsItIs> inline void load_panel(Real* v, const T* x, int64_t pitch, int lanes, int rows, const F& f = F()) {
  constexpr int W = Lanes::width;
  if (lanes == W) {
    for (int i = 0; i < rows; i++) {
      __builtin_prefetch(x + i * pitch + 6 * W);
      v[i] = f(fetch(x + i * pitch), i);
    }
    return;
  }
  for (int i = 0; i < rows; i++) {
    T padded[W] = {};
    for (int l = 0; l < lanes; l++) padded[l] = x[i * pitch + l];
    v[i] = f(fetch(padded), i);
  }
}

// Hadamard transform along the vectors of a piece, in the order of src/formats/hadamard.ts: sums start at 0 and run over i in order.
struct Rotation {
  int size = 0;
  float factor[SPAN];  // 1 / sqrt(size) with the sign of each input

  Rotation(int size, const uint32_t* signs) : size(size) {
    const float h = (float)(1.0 / std::sqrt((double)size));
    for (int i = 0; i < size; i++) factor[i] = (signs[i >> 5] >> (i & 31)) & 1u ? -h : h;
  }
  explicit Rotation() {}

  template <int Inputs, int Outputs, int From, bool Minus> static inline void accumulate(Real* sums, const Real* terms) {
#pragma GCC unroll 16
    for (int i = 0; i < Inputs; i++)
#pragma GCC unroll 16
      for (int j = 0; j < Outputs; j++) {
        const bool minus = (__builtin_popcount(i & (From + j)) & 1) != 0;
        if (minus != Minus) sums[j] = sums[j] - terms[i];
        else sums[j] = sums[j] + terms[i];
      }
  }

  template <int Inputs, int Outputs, int From> static inline void outputs(Real* z, const Real* terms, int size, int first) {
    Real sums[Outputs] = {};
    for (int i = 0; i < size; i += Inputs)
      if (__builtin_popcount((unsigned)(i & first)) & 1) accumulate<Inputs, Outputs, From, true>(sums, terms + i);
      else accumulate<Inputs, Outputs, From, false>(sums, terms + i);
    for (int j = 0; j < Outputs; j++) z[From + j] = sums[j];
  }

  // Sums of 16 terms. As far as outputs have the same signs, from the first term on, they have the same partial sum.
  static inline void outputs_of_16(Real* z, const Real* terms) {
    Real sums[16];
    sums[0] = Real{} + terms[0];
#pragma GCC unroll 4
    for (int known = 1; known < 16; known *= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < known; j++) {
        sums[known + j] = sums[j] - terms[known];
        sums[j] = sums[j] + terms[known];
      }
#pragma GCC unroll 8
      for (int i = known + 1; i < 2 * known; i++)
#pragma GCC unroll 16
        for (int j = 0; j < 2 * known; j++)
          sums[j] = (__builtin_popcount(i & j) & 1) != 0 ? sums[j] - terms[i] : sums[j] + terms[i];
    }
    for (int j = 0; j < 16; j++) z[j] = sums[j];
  }

  // `count` vectors, a multiple of size, in place.
  template <bool RoundToBf16> void apply(Real* v, int count) const {
    Real terms[SPAN];
    for (int start = 0; start < count; start += size) {
      Real* const z = v + start;
      for (int i = 0; i < size; i++) terms[i] = z[i] * factor[i];
      if (size == 4) outputs<4, 4, 0>(z, terms, 4, 0);
      else if (size == 16) outputs_of_16(z, terms);
      else
        for (int j = 0; j < size; j += 16) {
          if constexpr (Lanes::width == 16) {
            outputs<16, 16, 0>(z + j, terms, size, j);
          } else {
            outputs<16, 8, 0>(z + j, terms, size, j);
            outputs<16, 8, 8>(z + j, terms, size, j);
          }
        }
      if (RoundToBf16)
        for (int i = 0; i < size; i++) z[i] = Lanes::round_to_bf16(z[i]);
    }
  }
};

template <class Act> struct IsBf16 { static constexpr bool value = false; };
template <> struct IsBf16<bf16> { static constexpr bool value = true; };

// What is read in place of x (mapping.ts): rounded to the dtype of activations as its own kernel would have stored it.
struct Mapping {
  const float *inverse = nullptr, *w = nullptr;
  bool squared = false;

  Mapping() {}
  template <class A> explicit Mapping(const A& a) : inverse(a.inverse), w(a.w), squared(a.squared != 0) {}

  bool is_identity() const { return !inverse && !squared; }

  // A BF16 that is NaN has no low bits, and so has its square: rounding need not look for it.
  template <class Act> static inline Real square(Real x) {
    const Real positive = Lanes::positive(x), y = positive * positive;
    if constexpr (!IsBf16<Act>::value) return y;
    const Word u = Lanes::bits(y);
    return Lanes::of_bits((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u);
  }
  template <class Act> static inline Real scale(Real x, Real inverse, Real w) {
    const Real y = x * inverse * w;
    return IsBf16<Act>::value ? Lanes::round_to_bf16(y) : y;
  }

  // load_panel of x from row r and column c on.
  template <class Act> inline void load_columns(Real* v, const Act* x, int64_t r, int64_t c, int64_t cols, int lanes, int rows) const {
    const Act* const from = x + r * cols + c;
    if (squared) {
      load_panel(v, from, cols, lanes, rows, [](Real y, int) { return square<Act>(y); });
    } else if (inverse) {
      Real of_columns;
      load_panel(&of_columns, w + c, 0, lanes, 1);
      load_panel(v, from, cols, lanes, rows, [&](Real y, int i) { return scale<Act>(y, Lanes::real(inverse[r + i]), of_columns); });
    } else {
      load_panel(v, from, cols, lanes, rows);
    }
  }

  // load_lines of blocks of a row that follow one another, over row ends, from block `unit` on.
  template <class Act> inline void load_blocks(Real* v, const Act* from, int64_t unit, int64_t across, int block, int lanes) const {
    if (squared) {
      load_lines(v, from, block, lanes, block, [](Real y, int, int) { return square<Act>(y); });
    } else if (inverse) {
      const int64_t r = unit / across, first = unit - r * across;
      const Real of_row = Lanes::real(inverse[r]);
      if (first + lanes <= across) {
        const float* const of_columns = w + first * block;
        load_lines(v, from, block, lanes, block,
                   [&](Real y, int l, int i) { return scale<Act>(y, of_row, Lanes::load(of_columns + l * block + i)); });
      } else {
        float of_rows[Lanes::width];
        const float* of_columns[Lanes::width];
        int64_t row = r, at = first;
        for (int l = 0; l < lanes; l++) {
          of_rows[l] = inverse[row];
          of_columns[l] = w + at * block;
          if (++at == across) at = 0, row++;
        }
        load_lines(v, from, block, lanes, block,
                   [&](Real y, int l, int i) { return scale<Act>(y, Lanes::real(of_rows[l]), Lanes::load(of_columns[l] + i)); });
      }
    } else {
      load_lines(v, from, block, lanes, block);
    }
  }

  // load_lines of a run of each of `lanes` rows, from row r and column c on; whole vectors of it.
  template <class Act> inline void load_rows(Real* v, const Act* from, int64_t r, int64_t c, int64_t cols, int lanes, int length) const {
    if (squared) {
      load_lines(v, from, cols, lanes, length, [](Real y, int, int) { return square<Act>(y); });
    } else if (inverse) {
      load_lines(v, from, cols, lanes, length,
                 [&](Real y, int l, int i) { return scale<Act>(y, Lanes::real(inverse[r + l]), Lanes::load(w + c + i)); });
    } else {
      load_lines(v, from, cols, lanes, length);
    }
  }
};

// Rotates `rows` rows of `cols` elements, whole groups of rotation.size, into z. T is the dtype of z.
template <class Act, class T>
inline void rotate_rows(T* z, const Act* x, int64_t rows, int64_t cols, const Rotation& rotation) {
  const int length = rotation.size < 16 && cols % 16 == 0 ? 16 : rotation.size;
  const int64_t lines = rows * cols / length;
  for (int64_t line = 0; line < lines; line += Lanes::width) {
    const int lanes = (int)(lines - line < Lanes::width ? lines - line : Lanes::width);
    Real v[SPAN];
    load_lines(v, x + line * length, length, lanes, length);
    rotation.apply<IsBf16<Act>::value>(v, length);
    store_lines(z + line * length, length, lanes, length, v);
  }
}

// Columns of a task.
static constexpr int PANEL = 256;

// Tasks of spans of 128 rows and panels of 256 columns: how many there are, and body(first row, rows, first column, column after the last)
// of one of them, or of all in parallel.
inline int64_t spans_of(int64_t rows, int64_t cols) { return (cols + PANEL - 1) / PANEL * ((rows + SPAN - 1) / SPAN); }

template <class Body> inline void run_span(int64_t task, int64_t rows, int64_t cols, const Body& body) {
  const int64_t panels = (cols + PANEL - 1) / PANEL, r = task / panels * SPAN, from = task % panels * PANEL;
  body(r, (int)(rows - r < SPAN ? rows - r : SPAN), from, from + PANEL < cols ? from + PANEL : cols);
}

template <class Body> inline void parallel_spans(int64_t rows, int64_t cols, const Body& body) {
  parallel_for(spans_of(rows, cols), [&](int64_t task) { run_span(task, rows, cols, body); });
}

// The pieces of such a task, `height` rows of as many columns as there are lanes, row by row, so that memory is read in order:
// body(first row within the task, rows, first column, lanes, index of the columns).
template <class Body> inline void each_piece(int count, int height, int64_t from, int64_t to, const Body& body) {
  constexpr int W = Lanes::width;
  for (int first = 0; first < count; first += height)
    for (int64_t c = from; c < to; c += W)
      body(first, count - first < height ? count - first : height, c, (int)(to - c < W ? to - c : W), (int)((c - from) / W));
}

// [max of |x| as bits, NaN counted as 0; max of all bits without sign, which is at least 0x7f800000 iff something is not finite].
struct Largest {
  Word finite = Lanes::word(0), any = Lanes::word(0);
  // `known` are the bits of |x| where that is no NaN, else 0, and `bits` those of |x|.
  void add(Word known, Word bits) {
    finite = Lanes::larger(finite, known);
    any = Lanes::larger(any, bits);
  }
  void add(Real x) {
    const Word a = Lanes::bits(x) & 0x7fffffffu;
    add(Lanes::select(Lanes::above(a, Lanes::word(0x7f800000u)), Lanes::word(0), a), a);
  }
};

// What one task found: the largest magnitude that is not NaN, and the largest bits.
struct Found {
  uint32_t finite, any;
};

inline Found found_in(const Largest& largest) { return {Lanes::largest(largest.finite), Lanes::largest(largest.any)}; }

// [largest magnitude, 1 if something is not finite] of all tasks; the same in any order.
inline void write_amax(float* amax, const Found* found, int64_t tasks) {
  uint32_t finite = 0, any = 0;
  for (int64_t t = 0; t < tasks; t++) {
    finite = found[t].finite > finite ? found[t].finite : finite;
    any = found[t].any > any ? found[t].any : any;
  }
  amax[0] = float_of(finite);
  amax[1] = any >= 0x7f800000u ? 1.0f : 0.0f;
}
