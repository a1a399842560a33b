// Both orientations of a square-tiled image at once: src/kernels/quantize/quantize.ts, layout `square`.
//
// A span of 128 rows is taken 16 columns at a time: the largest magnitude and the scale of each of its tiles, then the codes, with a column in
// each lane. Across lanes they are the row image; gathered in words down each lane, the column image.
#pragma once
#include "quantize_cpu.h"

// Largest magnitude of a tile, as bits; it is also counted with what was seen.
template <class T> inline uint32_t tile_largest(const T* x, int64_t pitch, int rows, int cols, Largest& seen) {
  Largest tile;
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < cols; c += Lanes::width) tile.add(fetch(x + r * pitch + c));
  seen.add(tile.finite, tile.any);
  return Lanes::largest(tile.finite);
}

// Error that a scale leaves in a 16x16 tile: each row in order, the rows as a tree.
template <class T>
inline float tile_error(const T* x, int64_t pitch, const BlockScale<One>& scale, const Outer<Lanes>& outer, const Scaling& s) {
  float errors[16];
  for (int r = 0; r < 16; r += Lanes::width) {
    Real v[16];
    load_lines(v, x + r * pitch, pitch, Lanes::width, 16);
    Lanes::store(errors + r, block_error<Lanes>(v, broadcast(scale), outer, s));
  }
  return tree_sum<One>(errors);
}

// Random bytes of 16 columns of `rows` rows, in the order of memory; the group of row k is first + k * stride.
inline void draw_bytes(uint8_t* bytes, int rows, const Draw& draw, uint64_t first, uint64_t stride) {
  constexpr int W = Lanes::width;
  for (int k = 0; k < rows; k += W) {
    const Random<Lanes> random = draw_groups(draw, first + (uint64_t)k * stride, stride);
    for (int i = 0; i < 4; i++) {
      uint32_t one[W];
      Lanes::store(one, random.word[i]);
      for (int l = 0; l < W; l++) memcpy(bytes + (k + l) * 16 + 4 * i, one + l, 4);
    }
  }
}

template <class Format> struct Square {
  typedef typename Format::Scale::Stored Stored;
  static constexpr int W = Lanes::width, bits = Format::Element::bits, edge = Format::whole ? SPAN : Format::block;

  const Request<Format>& q;
  const Outers<Format> outers;
  uint8_t* codes_t;
  Stored* scales_t;
  int64_t rows, cols;

  static void put(Stored* p, uint32_t stored) {
    if constexpr (sizeof(Stored) == 1) *p = (Stored)stored;
    else *p = float_of(stored);
  }

  // The scale of the tile at (r, c) into both orientations: once for each row of the tile, FP32 once for the tile.
  void put_scales(int64_t r, int64_t c, int height, int width, uint32_t stored) const {
    const int64_t across = (cols + edge - 1) / edge, down = (rows + edge - 1) / edge;
    if constexpr (sizeof(Stored) == 1) {
      for (int k = 0; k < height; k++) put(q.scales + (r + k) * across + c / edge, stored);
      if (scales_t)
        for (int k = 0; k < width; k++) put(scales_t + (c + k) * down + r / edge, stored);
    } else {
      put(q.scales + r / edge * across + c / edge, stored);
      if (scales_t) put(scales_t + c / edge * down + r / edge, stored);
    }
  }

  // Multipliers of the tiles at (r, c), (r + edge, c) and so on, whose scales it writes.
  template <class Act> void scale_tiles(const Act* x, int64_t r, int count, int64_t c, int width, float* multipliers, Largest& seen) const {
    uint32_t b[W] = {};
    for (int first = 0; first < count; first += W * edge) {
      const int tiles = (count - first + edge - 1) / edge < W ? (count - first + edge - 1) / edge : W;
      const auto height = [&](int t) { return count - first - t * edge < edge ? count - first - t * edge : edge; };
      for (int t = 0; t < tiles; t++) b[t] = tile_largest(x + (r + first + t * edge) * cols + c, cols, height(t), width, seen);
      Word word;
      memcpy(&word, b, sizeof word);
      const BlockScale<Lanes> scale = Format::Scale::template of<Lanes>(word, outers.common, q.scaling);
      for (int t = 0; t < tiles; t++) {
        BlockScale<One> chosen{scale.stored[t], scale.multiplier[t]};
        if constexpr (Format::Scale::outer)
          if (q.scaling.four_over_six) {
            const Act* tile = x + (r + first + t * edge) * cols + c;
            const Outer<One> outer{outers.common.amax[0], outers.common.encode[0], outers.common.decode[0]};
            const BlockScale<One> four = scale_to_four<One>(b[t], outer, q.scaling);
            if (tile_error(tile, cols, four, outers.common, q.scaling) < tile_error(tile, cols, chosen, outers.common, q.scaling))
              chosen = four;
          }
        multipliers[first / edge + t] = chosen.multiplier;
        put_scales(r + first + t * edge, c, height(t), width, chosen.stored);
      }
    }
  }

  // Codes of the 16 columns from c on in a span of rows.
  template <bool Stochastic, class Act> void codes(const Act* x, int64_t r, int count, int64_t c, const float* multipliers) const {
    uint8_t bytes[SPAN * 16 + 16 * W];
    if (Stochastic) draw_bytes(bytes, count, q.draw, (uint64_t)((r * cols + c) / 16), (uint64_t)(cols / 16));
    for (int side = 0; side < 16; side += W) {
      Word words[SPAN * bits / 32];
      const int64_t column = c + side;
      for (int k = 0; k < count; k++) {
        const int64_t at = (r + k) * cols + column;
        const Real y = fetch(x + at) * multipliers[k / edge];
        Word code;
        if constexpr (Stochastic)
          code = encode_stochastic<Lanes, typename Format::Element, 8>(y, Lanes::load_bytes(bytes + k * 16 + side));
        else code = encode_nearest<Lanes, typename Format::Element>(y);
        if constexpr (bits == 4) Lanes::store_nibbles(q.codes + at / 2, code);
        else Lanes::store_bytes(q.codes + at, code);
        constexpr int per_word = 32 / bits;
        Word& word = words[k / per_word];
        word = k % per_word == 0 ? code : word | (code << (bits * (k % per_word)));
      }
      if (codes_t) emit_words(codes_t + (column * rows + r) * bits / 8, rows * bits / 8, W, count * bits / 32, words);
    }
  }

  template <bool Stochastic, class Act> void run(const Act* x) const {
    constexpr int64_t panel = 256;
    const int64_t panels = (cols + panel - 1) / panel, spans = (rows + SPAN - 1) / SPAN;
    const Found* const found = run_tasks(spans * panels, q.finds != nullptr, [&](int64_t task) {
      Largest seen;
      const int64_t r = task / panels * SPAN, from = task % panels * panel;
      const int64_t to = from + panel < cols ? from + panel : cols;
      const int count = (int)(rows - r < SPAN ? rows - r : SPAN);
      for (int64_t c = from; c < to; c += edge) {
        const int width = (int)(to - c < edge ? to - c : edge);
        float multipliers[SPAN];
        if constexpr (Format::whole) multipliers[0] = outers.whole.multiplier[0];
        else scale_tiles(x, r, count, c, width, multipliers, seen);
        for (int i = 0; i < width; i += 16) codes<Stochastic>(x, r, count, c + i, multipliers);
      }
      return seen;
    });
    if (found) write_amax(q.finds, found, spans * panels);
    if constexpr (Format::whole)
      if (scales_t) scales_t[0] = q.scales[0];
  }
};

template <class Format, class Act>
inline void quantize_square(const Request<Format>& q, bool stochastic, uint8_t* codes_t, typename Format::Scale::Stored* scales_t,
                            const Act* x, int64_t rows, int64_t cols) {
  const Square<Format> square{q, Outers<Format>(q), codes_t, scales_t, rows, cols};
  if (stochastic) square.template run<true>(x);
  else square.template run<false>(x);
}
