// Images on the CPU: what src/kernels/quantize/quantize.ts declares, for every format (quantize.h) and kind of rounding.
//
// Work is cut where memory is: `rows` takes consecutive blocks of a row as lanes, `columns` consecutive columns, in spans of 128 rows so that
// each line of the transposed image is written 64 bytes at a time. A tile's codes are gathered in 32-bit words, least significant first.
#pragma once
#include "e2m1_avx512.h"
#include "quantize.h"

enum class Rounding { nearest, stochastic, eden };

// Which random decisions to draw.
struct Draw {
  uint32_t low = 0, high = 0, step = 0, stream = 0;
  Draw(const uint32_t* random, uint32_t stream) : stream(stream) {
    if (!random) return;
    low = random[0];
    high = random[1];
    step = random[2];
  }
};

// The random bytes of lane l's group of 16 elements: group first + l * stride.
inline Random<Lanes> draw_groups(const Draw& draw, uint64_t first, uint64_t stride) {
  constexpr int W = Lanes::width;
  Word low, high;
  for (int l = 0; l < W; l++) low[l] = (uint32_t)l;
  low = low * (uint32_t)stride + (uint32_t)first;
  high = Lanes::word((uint32_t)(first >> 32));
  if (((first + stride * (W - 1)) >> 32) != (first >> 32))
    for (int l = 0; l < W; l++) high[l] = (uint32_t)((first + stride * l) >> 32);
  return philox<Lanes>(low, high, Lanes::word(draw.stream), Lanes::word(draw.step), draw.low, draw.high);
}

// Codes of the first `count` vectors, gathered in count * bits / 32 words; returns what is stored as the scale.
template <class Format, Rounding How, bool Nan>
inline Word encode_block(const Real* v, int count, const BlockScale<Lanes>& scale, const Draw& draw, uint64_t group,
                         uint64_t group_stride, Word* words) {
  typedef typename Format::Element Element;
  constexpr int per_word = 32 / Element::bits;
  Word stored = scale.stored;
  for (int g = 0; g < count; g += 16, group++) {
    Random<Lanes> random;
    if constexpr (How != Rounding::nearest) random = draw_groups(draw, group, group_stride);
#if FAST_E2M1
    if constexpr (How != Rounding::eden && Element::bits == 4 && !Nan) {
      constexpr bool stochastic = How == Rounding::stochastic;
      for (int i = 0; i < 16; i += 8) words[(g + i) / 8] = FastE2M1::word<stochastic>(v + g + i, scale.multiplier, random.word, i);
      continue;
    }
#endif
    Real squares[16], products[16];
    Word word = Lanes::word(0);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      const Real y = v[g + i] * scale.multiplier;
      Word code;
      if constexpr (How == Rounding::stochastic) code = encode_stochastic<Lanes, Element, 8, Nan>(y, random.byte(i));
      else code = encode_nearest<Lanes, Element, Nan>(y);
      if constexpr (How == Rounding::eden) {
        squares[i] = y * y;
        products[i] = y * decode<Lanes, Element>(code);
      }
      word = i % per_word == 0 ? code : word | (code << (Element::bits * (i % per_word)));
      if (i % per_word == per_word - 1) words[(g + i) / per_word] = word;
    }
    if constexpr (How == Rounding::eden) stored = eden_correction<Lanes>(stored, squares, products, random.word[0]);
  }
  return stored;
}

// Quantises the first `count` vectors of v, one block to a lane; count is Format::block or a shorter multiple of 16. `given` is the scale
// where the format has one for the whole tensor. NaN costs a second look, so blocks without one are told apart. What is `seen` counts in
// formats with scales of blocks alone.
template <class Format, Rounding How>
inline Word quantize_block(const Real* v, int count, const Outer<Lanes>& outer, const Scaling& s, const BlockScale<Lanes>* given,
                           const Draw& draw, uint64_t group, uint64_t group_stride, Word* words, Largest& seen) {
  if constexpr (Format::whole) {
    return encode_block<Format, How, true>(v, count, *given, draw, group, group_stride, words);
  } else {
    Word each[4] = {};
    for (int i = 0; i < count; i += 4)
      for (int k = 0; k < 4; k++) each[k] = Lanes::larger(each[k], Lanes::bits(v[i + k]) & 0x7fffffffu);
    Word b = Lanes::larger(Lanes::larger(each[0], each[1]), Lanes::larger(each[2], each[3]));
    const Word bits = b;
    const bool nan = Lanes::some_above(b, INFINITE);
    if (nan) {
      b = Lanes::word(0);
      for (int i = 0; i < count; i++) b = Lanes::larger(b, magnitude<Lanes>(v[i]));
    }
    if constexpr (!Format::Scale::outer) seen.add(b, bits);
    BlockScale<Lanes> scale = Format::Scale::template of<Lanes>(b, outer, s);
    if constexpr (How == Rounding::nearest && Format::Scale::outer)
      if (s.four_over_six) scale = four_over_six<Lanes>(v, b, scale, outer, s);
    if constexpr (How == Rounding::eden) scale = eden_scale<Lanes>(scale, outer);
    if (nan) return encode_block<Format, How, true>(v, count, scale, draw, group, group_stride, words);
    return encode_block<Format, How, false>(v, count, scale, draw, group, group_stride, words);
  }
}

// Writes `count` words of each lane to p + lane * stride bytes.
inline void emit_words(uint8_t* p, int64_t stride, int lanes, int count, Word* words) {
  constexpr int W = Lanes::width;
  int k = 0;
  for (; k + W <= count; k += W) {
    Lanes::transpose(words + k);
    for (int l = 0; l < lanes; l++) memcpy(p + l * stride + 4 * k, words + k + l, 4 * W);
  }
  if (count - k == 2) {
    uint8_t pairs[2][4 * W];
    Lanes::store(pairs[0], Lanes::zip_low(words[k], words[k + 1]));
    Lanes::store(pairs[1], Lanes::zip_high(words[k], words[k + 1]));
    if (lanes == W && stride == 8) {
      for (int l = 0; l < W; l += 2) memcpy(p + 8 * l, pairs[l >> 1 & 1] + (l & ~3) * 4, 16);
      return;
    }
    for (int l = 0; l < lanes; l++) memcpy(p + l * stride + 4 * k, pairs[l >> 1 & 1] + (l & ~3) * 4 + (l & 1) * 8, 8);
    return;
  }
  for (; k < count; k++) {
    uint32_t one[W];
    Lanes::store(one, words[k]);
    for (int l = 0; l < lanes; l++) memcpy(p + l * stride + 4 * k, one + l, 4);
  }
}

// Writes the scale of each lane, `stride` elements apart.
inline void emit_scales(uint8_t* p, int64_t stride, int lanes, Word stored) {
  uint8_t bytes[Lanes::width];
  Lanes::store_bytes(bytes, stored);
  for (int l = 0; l < lanes; l++) p[l * stride] = bytes[l];
}
inline void emit_scales(float* p, int64_t stride, int lanes, Word stored) {
  float values[Lanes::width];
  Lanes::store(values, stored);
  for (int l = 0; l < lanes; l++) p[l * stride] = values[l];
}

// The same for `count` scales of each lane that follow one another.
inline void emit_scales_of(uint8_t* p, int64_t stride, int lanes, int count, const Word* stored) {
  Word words[PANEL / 16 / 4];
  int k = 0;
  for (; k + 4 <= count; k += 4)
    words[k / 4] = stored[k] | stored[k + 1] << 8 | stored[k + 2] << 16 | stored[k + 3] << 24;
  emit_words(p, stride, lanes, k / 4, words);
  for (; k < count; k++) emit_scales(p + k, stride, lanes, stored[k]);
}
inline void emit_scales_of(float* p, int64_t stride, int lanes, int count, const Word* stored) {
  for (int k = 0; k < count; k++) emit_scales(p + k, stride, lanes, stored[k]);
}

// Whether scales of lines are [blocks, lines]: quantize.ts.
template <class Format> inline constexpr bool BLOCK_BY_BLOCK = !Format::whole && sizeof(typename Format::Scale::Stored) == 4;

// What a call asks for, in common over all formats; null where the contract has no such argument.
template <class Format> struct Request {
  uint8_t* codes;
  typename Format::Scale::Stored* scales;
  const float* amax;
  int per_row;  // amax is one for each line of the image
  const uint32_t* signs;
  int hadamard;
  Draw draw;
  Scaling scaling;
  Mapping mapping = Mapping();
  float* finds = nullptr;  // f32[2] for the amax of what is quantised, where no scale needs it
};

inline Outer<Lanes> broadcast(const Outer<One>& outer) {
  return Outer<Lanes>{Lanes::real(outer.amax), Lanes::real(outer.encode), Lanes::real(outer.decode)};
}
inline BlockScale<Lanes> broadcast(const BlockScale<One>& scale) {
  return BlockScale<Lanes>{Lanes::word(scale.stored), Lanes::real(scale.multiplier)};
}

// Outer scales of the lanes of a tile, and the scale of the tensor where the format has only that.
template <class Format> struct Outers {
  const Request<Format>& q;
  Outer<Lanes> common{};
  BlockScale<Lanes> whole{};

  explicit Outers(const Request<Format>& q) : q(q) {
    if constexpr (Format::Scale::outer)
      if (!q.per_row) common = broadcast(outer_scale<One>(q.amax[0], q.scaling));
    if constexpr (Format::whole) {
      const BlockScale<One> scale = Format::Scale::template of<One>(bits_of(q.amax[0]), Outer<One>{}, q.scaling);
      whole = broadcast(scale);
      q.scales[0] = float_of(scale.stored);
    }
  }
  // Lane l belongs to line (first + l) / per_line.
  Outer<Lanes> of(int64_t first, int64_t per_line, int lanes) const {
    if (!Format::Scale::outer || !q.per_row) return common;
    Real amax = Lanes::real(0);
    for (int l = 0; l < lanes; l++) amax[l] = q.amax[(first + l) / per_line];
    return outer_scale<Lanes>(amax, q.scaling);
  }
};

// Rows [begin, end) of the image of x, read from `source`, whose first row is row `begin`.
template <class Format, Rounding How, class T>
inline void quantize_rows_of(const Request<Format>& q, const Outers<Format>& outers, const T* source, int64_t begin, int64_t end,
                             int64_t rows, int64_t cols, Largest& seen) {
  constexpr int W = Lanes::width, bits = Format::Element::bits, block = Format::block;
  const int64_t across = (cols + block - 1) / block;
  Real v[block];
  Word words[block * bits / 32];
  if (cols % block == 0) {
    const int64_t last = end * across;
    for (int64_t unit = begin * across; unit < last; unit += W) {
      const int lanes = (int)(last - unit < W ? last - unit : W);
      const T* const from = source + (unit - begin * across) * block;
      for (int i = 0; i < W * block; i += 64 / (int)sizeof(T)) __builtin_prefetch(from + 4 * W * block + i);
      q.mapping.load_blocks(v, from, unit, across, block, lanes);
      const Word stored = quantize_block<Format, How>(v, block, outers.of(unit, across, lanes), q.scaling, &outers.whole, q.draw,
                                                      (uint64_t)(unit * (block / 16)), block / 16, words, seen);
      emit_words(q.codes + unit * (block * bits / 8), block * bits / 8, lanes, block * bits / 32, words);
      if constexpr (BLOCK_BY_BLOCK<Format>) {
        for (int l = 0; l < lanes; l++) q.scales[(unit + l) % across * rows + (unit + l) / across] = float_of(stored[l]);
      } else if (!Format::whole) {
        emit_scales(q.scales + unit, 1, lanes, stored);
      }
    }
    return;
  }
  for (int64_t r = begin; r < end; r += W)
    for (int64_t c = 0; c < cols; c += block) {
      const int lanes = (int)(end - r < W ? end - r : W), count = (int)(cols - c < block ? cols - c : block);
      q.mapping.load_rows(v, source + (r - begin) * cols + c, r, c, cols, lanes, count);
      const Word stored = quantize_block<Format, How>(v, count, outers.of(r, 1, lanes), q.scaling, &outers.whole, q.draw,
                                                      (uint64_t)((r * cols + c) / 16), (uint64_t)(cols / 16), words, seen);
      emit_words(q.codes + (r * cols + c) * bits / 8, cols * bits / 8, lanes, count * bits / 32, words);
      if constexpr (BLOCK_BY_BLOCK<Format>) emit_scales(q.scales + c / block * rows + r, 1, lanes, stored);
      else if (!Format::whole) emit_scales(q.scales + r * across + c / block, across, lanes, stored);
    }
}

// The image of x, cut in tasks of whole rows.
template <class Format, Rounding How, class Act> struct RowTasks {
  const Request<Format>& q;
  const Act* x;
  int64_t rows, cols;
  const Outers<Format> outers{q};
  const Rotation rotation = q.hadamard ? Rotation(q.hadamard, q.signs) : Rotation();
  const int64_t grain = cols >= 32768 ? 1 : 32768 / cols;

  int64_t count() const { return (rows + grain - 1) / grain; }

  Largest run(int64_t task) const {
    const int64_t begin = task * grain, end = begin + grain < rows ? begin + grain : rows;
    Largest seen;
    if (!q.hadamard) {
      quantize_rows_of<Format, How>(q, outers, x + begin * cols, begin, end, rows, cols, seen);
      return seen;
    }
    float* const rotated = static_cast<float*>(scratch(1, (end - begin) * cols * 4));
    rotate_rows(rotated, x + begin * cols, end - begin, cols, rotation);
    quantize_rows_of<Format, How>(q, outers, rotated, begin, end, rows, cols, seen);
    return seen;
  }
};

// The image of the transpose of x, cut in spans of its rows. Codes and scales are gathered until whole lines of memory can be written.
template <class Format, Rounding How, class Act> struct ColumnTasks {
  static constexpr int W = Lanes::width, bits = Format::Element::bits, block = Format::block, words = SPAN * bits / 32, blocks = SPAN / block;

  const Request<Format>& q;
  const Act* x;
  int64_t rows, cols;
  const Outers<Format> outers{q};
  const Rotation rotation = q.hadamard ? Rotation(q.hadamard, q.signs) : Rotation();

  int64_t count() const { return spans_of(rows, cols); }

  Largest run(int64_t task) const {
    Largest seen;
    const int64_t across = (rows + block - 1) / block, bytes = rows * bits / 8;
    const int height = q.hadamard > block ? q.hadamard : block;
    run_span(task, rows, cols, [&](int64_t r, int count, int64_t from, int64_t to) {
      Word codes[PANEL / W * words], stored[PANEL / W * blocks];
      each_piece(count, height, from, to, [&](int first, int n, int64_t c, int lanes, int panel) {
        Real v[SPAN];
        q.mapping.load_columns(v, x, r + first, c, cols, lanes, n);
        if (q.hadamard) rotation.template apply<IsBf16<Act>::value>(v, n);
        const Outer<Lanes> outer = outers.of(c, 1, lanes);
        for (int i = 0; i < n; i += block) {
          const int at = first + i;
          stored[panel * blocks + at / block] = quantize_block<Format, How>(
              v + i, block < n - i ? block : n - i, outer, q.scaling, &outers.whole, q.draw,
              (uint64_t)(c * (rows / 16) + (r + at) / 16), (uint64_t)(rows / 16), codes + panel * words + at * bits / 32, seen);
        }
      });
      for (int64_t c = from; c < to; c += W) {
        const int lanes = (int)(to - c < W ? to - c : W), panel = (int)((c - from) / W);
        emit_words(q.codes + c * bytes + r * bits / 8, bytes, lanes, count * bits / 32, codes + panel * words);
        if constexpr (BLOCK_BY_BLOCK<Format>)
          for (int k = 0; k < (count + block - 1) / block; k++)
            emit_scales(q.scales + (r / block + k) * cols + c, 1, lanes, stored[panel * blocks + k]);
        else if (!Format::whole)
          emit_scales_of(q.scales + c * across + r / block, across, lanes, (count + block - 1) / block, stored + panel * blocks);
      }
    });
    return seen;
  }
};

// Runs `count` tasks, each of which gives what it saw; returns that, if it is wanted.
template <class Run> inline const Found* run_tasks(int64_t count, bool wanted, const Run& run) {
  Found* const found = wanted ? static_cast<Found*>(scratch(0, count * (int64_t)sizeof(Found))) : nullptr;
  parallel_for(count, [&](int64_t task) {
    const Largest seen = run(task);
    if (found) found[task] = found_in(seen);
  });
  return found;
}

template <class Tasks> inline void run_tasks(const Tasks& tasks) {
  const Found* const found = run_tasks(tasks.count(), tasks.q.finds != nullptr, [&](int64_t task) { return tasks.run(task); });
  if (found) write_amax(tasks.q.finds, found, tasks.count());
}

template <class Format, Rounding How, class Act>
inline void quantize_rows(const Request<Format>& q, const Act* x, int64_t rows, int64_t cols) {
  run_tasks(RowTasks<Format, How, Act>{q, x, rows, cols});
}

template <class Format, Rounding How, class Act>
inline void quantize_columns(const Request<Format>& q, const Act* x, int64_t rows, int64_t cols) {
  run_tasks(ColumnTasks<Format, How, Act>{q, x, rows, cols});
}

// Of the two roundings that formats share.
template <class Format, class Act>
inline void quantize_rows(const Request<Format>& q, bool stochastic, const Act* x, int64_t rows, int64_t cols) {
  if (stochastic) quantize_rows<Format, Rounding::stochastic>(q, x, rows, cols);
  else quantize_rows<Format, Rounding::nearest>(q, x, rows, cols);
}

template <class Format, class Act>
inline void quantize_columns(const Request<Format>& q, bool stochastic, const Act* x, int64_t rows, int64_t cols) {
  if (stochastic) quantize_columns<Format, Rounding::stochastic>(q, x, rows, cols);
  else quantize_columns<Format, Rounding::nearest>(q, x, rows, cols);
}

// Both in one job.
template <class Format, Rounding How, class Act>
inline void quantize_both(const Request<Format>& row, const Request<Format>& column, const Act* x, int64_t rows, int64_t cols) {
  const RowTasks<Format, How, Act> row_tasks{row, x, rows, cols};
  const ColumnTasks<Format, How, Act> column_tasks{column, x, rows, cols};
  const int64_t columns = column_tasks.count();
  const Found* const found = run_tasks(columns + row_tasks.count(), row.finds != nullptr, [&](int64_t task) {
    return task < columns ? column_tasks.run(task) : row_tasks.run(task - columns);
  });
  if (!found) return;
  write_amax(column.finds, found, columns);
  write_amax(row.finds, found + columns, row_tasks.count());
}

template <class Format, class A>
inline void quantize_both(const A& a, const float* amax, const float* amax_t, const Scaling& s, float* finds = nullptr, float* finds_t = nullptr) {
  const Request<Format> row{a.codes, a.scales, amax, 0, nullptr, 0, Draw(a.random, a.stream), s, Mapping(a), finds};
  const Request<Format> column{a.codes_t, a.scales_t, amax_t, 0, a.signs, a.hadamard, Draw(a.random, a.stream_t), s, Mapping(a), finds_t};
  if (a.rounding) quantize_both<Format, Rounding::stochastic>(row, column, a.x, a.rows, a.cols);
  else quantize_both<Format, Rounding::nearest>(row, column, a.x, a.rows, a.cols);
}
