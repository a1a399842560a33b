// Pieces of a matrix in shared memory, 16 lines of up to 128 elements, and their rotation; lines are rows or columns.
#pragma once
#include "cuda.h"

static constexpr int SPAN = 128, LINES = 16;

template <class Act> struct IsBf16 { static constexpr bool value = false; };
template <> struct IsBf16<bf16> { static constexpr bool value = true; };

// What is read in place of x (mapping.ts): rounded to the dtype of activations as its own kernel would have stored it.
struct Mapping {
  const float *inverse = nullptr, *w = nullptr;
  bool squared = false;

  __device__ Mapping() {}
  template <class A> __device__ explicit Mapping(const A& a) : inverse(a.inverse), w(a.w), squared(a.squared != 0) {}

  __device__ bool is_identity() const { return !inverse && !squared; }

  // The element x of row r and column c.
  template <class Act> __device__ float of(float x, int64_t r, int64_t c) const {
    if (is_identity()) return x;
    const float positive = x < 0.0f ? 0.0f : x, y = squared ? positive * positive : x * inverse[r] * w[c];
    return IsBf16<Act>::value ? round_bf16(y) : y;
  }
};

// Element i of line l; the odd pitch lets both orders of access touch all banks.
struct Piece {
  float value[SPAN][LINES + 1];
};

// One pair for all that a kernel does.
struct Pieces {
  Piece loaded, rotated;
};
__device__ inline Pieces& shared_pieces() {
  __shared__ __align__(16) Pieces pieces;
  return pieces;
}

// How a matrix [rows, cols] is cut in pieces along its rows or its columns.
struct Cut {
  int64_t cols, lines, length;
  bool columns;
  __device__ Cut(int64_t rows, int64_t cols, bool columns)
      : cols(cols), lines(columns ? cols : rows), length(columns ? rows : cols), columns(columns) {}
  __device__ int64_t across() const { return (length + SPAN - 1) / SPAN; }
  __device__ int64_t down() const { return (lines + LINES - 1) / LINES; }
  __device__ int count(int64_t start) const { return (int)(length - start < SPAN ? length - start : SPAN); }
  __device__ int lanes(int64_t line) const { return (int)(lines - line < LINES ? lines - line : LINES); }
  __device__ int64_t row(int64_t line, int64_t i) const { return columns ? i : line; }
  __device__ int64_t column(int64_t line, int64_t i) const { return columns ? line : i; }
  __device__ int64_t at(int64_t line, int64_t i) const { return row(line, i) * cols + column(line, i); }
};

template <class Act>
__device__ void load_piece(Piece& piece, const Act* x, const Mapping& mapping, const Cut& cut, int64_t line, int64_t start) {
  const int lanes = cut.lanes(line), count = cut.count(start);
  BLOCK_LOOP(u, LINES * SPAN) {
    const int l = (int)(cut.columns ? u % LINES : u / SPAN), i = (int)(cut.columns ? u / LINES : u % SPAN);
    if (l < lanes && i < count)
      piece.value[i][l] = mapping.of<Act>(load(x + cut.at(line + l, start + i)), cut.row(line + l, start + i), cut.column(line + l, start + i));
  }
}

// Hadamard transform along each line, in the order of src/formats/hadamard.ts: sums start at 0 and run over i in order.
template <bool RoundToBf16>
__device__ void rotate_piece(Piece& z, const Piece& x, int count, int lanes, int size, const uint32_t* signs) {
  const float h = 1.0f / sqrtf((float)size);
  BLOCK_LOOP(u, LINES * SPAN) {
    const int l = (int)(u % LINES), j = (int)(u / LINES), first = j / size * size;
    if (l >= lanes || j >= count) continue;
    float sum = 0;
    for (int i = 0; i < size; i++) {
      const bool minus = ((__popc(i & (j - first)) + (signs[i >> 5] >> (i & 31))) & 1u) != 0;
      sum = sum + (minus ? -h : h) * x.value[first + i][l];
    }
    z.value[j][l] = RoundToBf16 ? round_bf16(sum) : sum;
  }
}

// Loads a piece and rotates it if `size` is not 0; returns where it is. Ends with a barrier.
template <class Act>
__device__ const Piece& prepare_piece(Piece& loaded, Piece& rotated, const Act* x, const Cut& cut, int64_t line, int64_t start,
                                      int size, const uint32_t* signs, const Mapping& mapping = Mapping()) {
  __syncthreads();
  load_piece(loaded, x, mapping, cut, line, start);
  __syncthreads();
  if (!size) return loaded;
  rotate_piece<IsBf16<Act>::value>(rotated, loaded, cut.count(start), cut.lanes(line), size, signs);
  __syncthreads();
  return rotated;
}
