// Images on a GPU: what src/kernels/quantize/quantize.ts declares, for every format (quantize.h) and kind of rounding. One thread quantises
// one block of a piece in shared memory; of a square tile, all threads find the largest magnitude and each takes groups of 16.
#pragma once
#include "piece_cuda.h"
#include "quantize.h"

// Of two BF16 in a word.
__device__ inline float low_of(uint32_t pair) { return float_of(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return float_of(pair & 0xffff0000u); }

enum class Rounding { nearest, stochastic, eden };

template <class Format> struct Request {
  uint8_t* codes;
  typename Format::Scale::Stored* scales;
  const float* amax;
  int per_row;
  const uint32_t* signs;
  int hadamard;
  const uint32_t* random;
  uint32_t stream;
  Scaling scaling;
  Mapping mapping = Mapping();
};

__device__ inline void put_scale(uint8_t* p, uint32_t stored) { *p = (uint8_t)stored; }
__device__ inline void put_scale(float* p, uint32_t stored) { *p = float_of(stored); }

__device__ inline Random<One> draw_group(const uint32_t* random, uint32_t stream, uint64_t group) {
  return philox<One>((uint32_t)group, (uint32_t)(group >> 32), stream, random[2], random[0], random[1]);
}

template <class Format> __device__ Outer<One> outer_of(const Request<Format>& q, int64_t line) {
  if constexpr (Format::Scale::outer) return outer_scale<One>(q.amax[q.per_row ? line : 0], q.scaling);
  return Outer<One>{1, 1, 1};
}

template <class Format> __device__ BlockScale<One> whole_scale(const Request<Format>& q) {
  return Format::Scale::template of<One>(bits_of(q.amax[0]), Outer<One>{1, 1, 1}, q.scaling);
}

// Codes of 16 values into 16 * bits / 32 words.
template <class Format, Rounding How>
__device__ void encode_group(const float* v, const BlockScale<One>& scale, const Random<One>& random, uint32_t* words, float* squares,
                             float* products) {
  typedef typename Format::Element Element;
  constexpr int per_word = 32 / Element::bits;
  for (int i = 0; i < 16; i++) {
    const float y = v[i] * scale.multiplier;
    uint32_t code;
    if constexpr (How == Rounding::stochastic) code = encode_stochastic<One, Element, 8>(y, random.byte(i));
    else code = encode_nearest<One, Element>(y);
    if constexpr (How == Rounding::eden) {
      squares[i] = y * y;
      products[i] = y * decode<One, Element>(code);
    }
    if (i % per_word == 0) words[i / per_word] = 0;
    words[i / per_word] |= code << (Element::bits * (i % per_word));
  }
}

// The block of `count` elements of line l from element i of a piece on; `line` and `start` are where the piece lies in the image.
template <class Format, Rounding How>
__device__ void quantize_block(const Request<Format>& q, const Piece& piece, const Cut& cut, int64_t line, int64_t start, int l, int i,
                               int count) {
  constexpr int bits = Format::Element::bits, words_of_group = 16 * bits / 32;
  const int64_t at = (line + l) * cut.length + start + i, across = (cut.length + Format::block - 1) / Format::block;
  const Outer<One> outer = outer_of(q, line + l);
  BlockScale<One> scale;
  float v[16];
  if constexpr (Format::whole) {
    scale = whole_scale(q);
  } else {
    uint32_t b = 0;
    for (int k = 0; k < count; k++) b = One::larger(b, magnitude<One>(piece.value[i + k][l]));
    scale = Format::Scale::template of<One>(b, outer, q.scaling);
    if constexpr (How == Rounding::nearest && Format::Scale::outer)
      if (q.scaling.four_over_six) {
        for (int k = 0; k < 16; k++) v[k] = piece.value[i + k][l];
        scale = four_over_six<One>(v, b, scale, outer, q.scaling);
      }
    if constexpr (How == Rounding::eden) scale = eden_scale<One>(scale, outer);
  }
  for (int g = 0; g < count; g += 16) {
    uint32_t words[words_of_group];
    float squares[16], products[16];
    Random<One> random{};
    for (int k = 0; k < 16; k++) v[k] = piece.value[i + g + k][l];
    if constexpr (How != Rounding::nearest) random = draw_group(q.random, q.stream, (uint64_t)((at + g) / 16));
    encode_group<Format, How>(v, scale, random, words, squares, products);
    if constexpr (How == Rounding::eden) scale.stored = eden_correction<One>(scale.stored, squares, products, random.word[0]);
    uint32_t* const out = reinterpret_cast<uint32_t*>(q.codes + (at + g) * bits / 8);
    for (int k = 0; k < words_of_group; k++) out[k] = words[k];
  }
  if constexpr (!Format::whole) put_scale(q.scales + (line + l) * across + (start + i) / Format::block, scale.stored);
}

// The image of x (`columns`: of its transpose).
template <class Format, Rounding How, class Act>
__device__ void quantize_lines(const Request<Format>& q, const Act* x, int64_t rows, int64_t cols, bool columns) {
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(rows, cols, columns);
  if constexpr (Format::whole)
    if (blockIdx.x == 0 && threadIdx.x == 0) q.scales[0] = float_of(whole_scale(q).stored);
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, start = task % cut.across() * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, x, cut, line, start, q.hadamard, q.signs, q.mapping);
    const int count = cut.count(start), lanes = cut.lanes(line), blocks = (count + Format::block - 1) / Format::block;
    BLOCK_LOOP(u, blocks * LINES) {
      const int l = (int)(u % LINES), i = (int)(u / LINES) * Format::block;
      if (l < lanes) quantize_block<Format, How>(q, piece, cut, line, start, l, i, count - i < Format::block ? count - i : Format::block);
    }
  }
}

template <class Format, class Act>
__device__ void quantize_lines(const Request<Format>& q, const Act* x, int64_t rows, int64_t cols, bool columns, int rounding) {
  if (rounding) quantize_lines<Format, Rounding::stochastic>(q, x, rows, cols, columns);
  else quantize_lines<Format, Rounding::nearest>(q, x, rows, cols, columns);
}

// The image of x and that of its transpose; the latter alone is rotated.
template <class Format, class A> __device__ void quantize_both(const A& a, const float* amax, const float* amax_t, const Scaling& s) {
  const Request<Format> row{a.codes, a.scales, amax, 0, nullptr, 0, a.random, a.stream, s, Mapping(a)};
  const Request<Format> column{a.codes_t, a.scales_t, amax_t, 0, a.signs, a.hadamard, a.random, a.stream_t, s, Mapping(a)};
  quantize_lines(row, a.x, a.rows, a.cols, false, a.rounding);
  quantize_lines(column, a.x, a.rows, a.cols, true, a.rounding);
}

// Error that a scale leaves in a 16x16 tile: each row in order, the rows as a tree. For all threads of a block; ends with a barrier.
template <class Act>
__device__ float tile_error(const Act* x, int64_t cols, const BlockScale<One>& scale, const Outer<One>& outer, const Scaling& s,
                            float* errors) {
  BLOCK_LOOP(r, 16) {
    float v[16];
    for (int i = 0; i < 16; i++) v[i] = load(x + r * cols + i);
    errors[r] = block_error<One>(v, scale, outer, s);
  }
  __syncthreads();
  float terms[16];
  for (int i = 0; i < 16; i++) terms[i] = errors[i];
  __syncthreads();
  return tree_sum<One>(terms);
}

// Both orientations of a square-tiled image; codes_t and scales_t may be null.
template <class Format, Rounding How, class Act>
__device__ void quantize_square(const Request<Format>& q, uint8_t* codes_t, typename Format::Scale::Stored* scales_t, const Act* x,
                                int64_t rows, int64_t cols) {
  typedef typename Format::Element Element;
  constexpr int edge = Format::block, bits = Element::bits, per_word = 32 / bits;
  __shared__ uint8_t codes[edge][edge + 4];
  __shared__ uint32_t largest;
  __shared__ float errors[16];
  const int64_t across = (cols + edge - 1) / edge, down = (rows + edge - 1) / edge;
  const Outer<One> outer = outer_of(q, 0);
  if constexpr (Format::whole)
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      q.scales[0] = float_of(whole_scale(q).stored);
      if (scales_t) scales_t[0] = q.scales[0];
    }
  EACH_BLOCK(task, across * down) {
    const int64_t r = task / across * edge, c = task % across * edge;
    const int height = (int)(rows - r < edge ? rows - r : edge), width = (int)(cols - c < edge ? cols - c : edge);
    BlockScale<One> scale;
    if constexpr (Format::whole) {
      scale = whole_scale(q);
    } else {
      if (threadIdx.x == 0) largest = 0;
      __syncthreads();
      BLOCK_LOOP(u, height * width) atomicMax(&largest, magnitude<One>(load(x + (r + u / width) * cols + c + u % width)));
      __syncthreads();
      scale = Format::Scale::template of<One>(largest, outer, q.scaling);
      if constexpr (Format::Scale::outer)
        if (q.scaling.four_over_six) {
          const BlockScale<One> four = scale_to_four<One>(largest, outer, q.scaling);
          const Act* const tile = x + r * cols + c;
          const float with_four = tile_error(tile, cols, four, outer, q.scaling, errors);
          if (with_four < tile_error(tile, cols, scale, outer, q.scaling, errors)) scale = four;
        }
      if constexpr (sizeof(typename Format::Scale::Stored) == 1) {
        BLOCK_LOOP(k, height) put_scale(q.scales + (r + k) * across + c / edge, scale.stored);
        if (scales_t) BLOCK_LOOP(k, width) put_scale(scales_t + (c + k) * down + r / edge, scale.stored);
      } else if (threadIdx.x == 0) {
        put_scale(q.scales + r / edge * across + c / edge, scale.stored);
        if (scales_t) put_scale(scales_t + c / edge * down + r / edge, scale.stored);
      }
    }
    BLOCK_LOOP(u, height * (width / 16)) {
      const int k = (int)(u / (width / 16)), g = (int)(u % (width / 16)) * 16;
      const int64_t at = (r + k) * cols + c + g;
      Random<One> random{};
      if constexpr (How == Rounding::stochastic) random = draw_group(q.random, q.stream, (uint64_t)(at / 16));
      uint32_t words[16 / per_word];
      float v[16];
      for (int i = 0; i < 16; i++) v[i] = load(x + at + i);
      encode_group<Format, How>(v, scale, random, words, nullptr, nullptr);
      uint32_t* const out = reinterpret_cast<uint32_t*>(q.codes + at * bits / 8);
      for (int i = 0; i < 16 / per_word; i++) out[i] = words[i];
      for (int i = 0; i < 16; i++) codes[k][g + i] = (uint8_t)(words[i / per_word] >> (bits * (i % per_word)) & ((1u << bits) - 1));
    }
    __syncthreads();
    if (codes_t)
      BLOCK_LOOP(u, width * (height / per_word)) {
        const int k = (int)(u / (height / per_word)), first = (int)(u % (height / per_word)) * per_word;
        uint32_t word = 0;
        for (int i = 0; i < per_word; i++) word |= (uint32_t)codes[first + i][k] << (bits * i);
        *reinterpret_cast<uint32_t*>(codes_t + ((c + k) * rows + r + first) * bits / 8) = word;
      }
    __syncthreads();
  }
}

template <class Format, class Act>
__device__ void quantize_square(const Request<Format>& q, uint8_t* codes_t, typename Format::Scale::Stored* scales_t, const Act* x,
                                int64_t rows, int64_t cols, int rounding) {
  if (rounding) quantize_square<Format, Rounding::stochastic>(q, codes_t, scales_t, x, rows, cols);
  else quantize_square<Format, Rounding::nearest>(q, codes_t, scales_t, x, rows, cols);
}
