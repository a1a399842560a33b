// Products of matrices that lie in shared memory, computed by a block of 128 threads: what attention and the chunked state space are
// made of. A tile of the result is 64 x N accumulators in FP32, spread over the threads.
//
//   f32:   each thread has 8 rows and N/16 columns of the tile; fused multiply-adds.
//   bf16:  tensor cores (mma.m16n8k16); each warp has 16 rows, each thread 2 of them and N/4 columns.
//
// A value computed in FP32 that enters a product with BF16 operands is stored as a sum of one, two or three BF16, within 2^-9, 2^-18 or 2^-26
// of it. Code that uses a tile asks it which rows and columns a thread has.
#pragma once
#include "cuda.h"

static constexpr int TILE = 64, TILE_THREADS = 128;

// Elements from one row of a matrix in shared memory to the next, such that neither its rows nor its columns fall on few banks, and that rows
// of BF16 stay aligned to 16 bytes.
template <class T> __host__ __device__ constexpr int pitch_of(int cols) { return sizeof(T) == 2 ? cols + 8 : cols + 1; }

// How many elements an FP32 value takes in products of T, if so many BF16 are accurate enough.
template <class T, int Count> struct Summands { static constexpr int count = 1; };
template <int Count> struct Summands<bf16, Count> { static constexpr int count = Count; };

// The type of a contract's activations, from its arguments.
template <class Args> struct ElementOf;
template <template <class> class Args, class Act> struct ElementOf<Args<Act>> { using type = Act; };
template <class Args> using Element = typename ElementOf<Args>::type;

// `store` in one instruction, where bf16_bits takes ten; a NaN becomes the canonical one.
__device__ inline void store_rounded(float* to, float x) { *to = x; }
__device__ inline void store_rounded(bf16* to, float x) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
  to->bits = (uint16_t)pair;
}

// A matrix in shared memory of `parts` summands, one after the other.
template <class T, int Rows, int Cols, int Parts = 1> struct SharedMatrix {
  static constexpr int parts = Parts, pitch = pitch_of<T>(Cols), size = Rows * pitch, bytes = Parts * size * (int)sizeof(T);
  T* data;

  __device__ explicit SharedMatrix(void* memory) : data(static_cast<T*>(memory)) {}
  __device__ T* at(int r, int c) const { return data + r * pitch + c; }
  __device__ void put(int r, int c, float x) const {
    T* to = at(r, c);
#pragma unroll
    for (int part = 0; part < Parts; part++, to += size) {
      store_rounded(to, x);
      x -= load(to);
    }
  }

  // The leading rows and columns from global memory, zeros elsewhere. All threads; no barrier.
  __device__ void load_from(const T* from, int64_t stride, int64_t rows, int64_t cols) const {
    static_assert(Parts == 1, "values in memory are whole");
    if (sizeof(T) == 2 && cols % 8 == 0 && stride % 8 == 0 && (reinterpret_cast<uint64_t>(from) & 15) == 0) {
#pragma unroll 4
      for (int u = threadIdx.x; u < Rows * Cols / 8; u += TILE_THREADS) {
        const int r = u / (Cols / 8), c = u % (Cols / 8) * 8;
        uint4 eight = {0, 0, 0, 0};
        if (r < rows && c < cols) eight = *reinterpret_cast<const uint4*>(from + r * stride + c);
        *reinterpret_cast<uint4*>(at(r, c)) = eight;
      }
      return;
    }
#pragma unroll 4
    for (int u = threadIdx.x; u < Rows * Cols; u += TILE_THREADS) {
      const int r = u / Cols, c = u % Cols;
      if (r < rows && c < cols) *at(r, c) = from[r * stride + c];
      else store(at(r, c), 0.0f);
    }
  }

  // The same of FP32 values, each multiplied by factor(r).
  template <class From, class Factor>
  __device__ void put_from(const From* from, int64_t stride, int64_t rows, int64_t cols, const Factor& factor) const {
#pragma unroll 4
    for (int u = threadIdx.x; u < Rows * Cols; u += TILE_THREADS) {
      const int r = u / Cols, c = u % Cols;
      put(r, c, r < rows && c < cols ? factor(r) * load(from + r * stride + c) : 0.0f);
    }
  }
};

// Four 8 x 8 matrices of BF16, whose rows begin where lanes 0-7, 8-15, 16-23 and 24-31 point: each lane gets two elements of each, those of
// row lane / 4 and columns 2 (lane % 4), or of that column and those rows if transposed.
template <bool Transposed> __device__ void load_matrices(uint32_t (&words)[4], const bf16* row) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  if (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8] over a warp. c is elements (row, 0), (row, 1), (row + 8, 0) and (row + 8, 1) from column 2 (lane % 4).
__device__ inline void multiply_fragments(float& c0, float& c1, float& c2, float& c3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Whether an operand of a product lies in shared memory as its formula has it or with rows and columns exchanged.
enum Stored { AsIs, Transposed };

template <class T, int N> struct Tile;

template <int N> struct Tile<float, N> {
  // Rows and columns of a thread; so many lanes in sequence share its rows.
  static constexpr int rows = 8, cols = N / 16, lanes = 16;
  float v[rows][cols];

  __device__ static int row(int i) { return (int)threadIdx.x / 16 + 8 * i; }
  __device__ static int col(int j) { return (int)threadIdx.x % 16 + 16 * j; }

  // += a[64, K] b[K, N].
  template <int K, Stored StoredA, Stored StoredB, class A, class B> __device__ void multiply(const A& a, const B& b) {
#pragma unroll 4
    for (int k = 0; k < K; k++) {
      float x[rows], y[cols];
#pragma unroll
      for (int i = 0; i < rows; i++) x[i] = StoredA == AsIs ? *a.at(row(i), k) : *a.at(k, row(i));
#pragma unroll
      for (int j = 0; j < cols; j++) y[j] = StoredB == AsIs ? *b.at(k, col(j)) : *b.at(col(j), k);
#pragma unroll
      for (int i = 0; i < rows; i++)
#pragma unroll
        for (int j = 0; j < cols; j++) v[i][j] = fmaf(x[i], y[j], v[i][j]);
    }
  }
};

template <int N> struct Tile<bf16, N> {
  static constexpr int rows = 2, cols = N / 4, lanes = 4;
  float v[rows][cols];

  __device__ static int row(int i) { return (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4 + 8 * i; }
  __device__ static int col(int j) { return j / 2 * 8 + (int)threadIdx.x % 4 * 2 + j % 2; }

  template <int K, Stored StoredA, Stored StoredB, class A, class B> __device__ void multiply(const A& a, const B& b) {
    const int first = (int)threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    const int low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
      uint32_t x[A::parts][4];
#pragma unroll
      for (int p = 0; p < A::parts; p++)
        if (StoredA == AsIs) load_matrices<false>(x[p], a.at(first + low + middle, k + high) + p * A::size);
        else load_matrices<true>(x[p], a.at(k + low + high, first + middle) + p * A::size);
#pragma unroll
      for (int n = 0; n < N; n += 16) {
        const int j = n / 4;
#pragma unroll
        for (int q = 0; q < B::parts; q++) {
          uint32_t y[4];
          if (StoredB == AsIs) load_matrices<true>(y, b.at(k + low + middle, n + high) + q * B::size);
          else load_matrices<false>(y, b.at(n + low + high, k + middle) + q * B::size);
#pragma unroll
          for (int p = 0; p < A::parts; p++) {
            // What is left out is as small as what the summands leave out.
            if (p + q >= A::parts && p + q >= B::parts) continue;
            multiply_fragments(v[0][j], v[0][j + 1], v[1][j], v[1][j + 1], x[p], y[0], y[1]);
            multiply_fragments(v[0][j + 2], v[0][j + 3], v[1][j + 2], v[1][j + 3], x[p], y[2], y[3]);
          }
        }
      }
    }
  }
};

template <class T, int N> __device__ void clear(Tile<T, N>& tile) {
#pragma unroll
  for (int i = 0; i < tile.rows; i++)
#pragma unroll
    for (int j = 0; j < tile.cols; j++) tile.v[i][j] = 0;
}

// body(i, j, row, column) for every accumulator v[i][j] of the thread.
template <class T, int N, class Body> __device__ void each(const Tile<T, N>& tile, const Body& body) {
#pragma unroll
  for (int i = 0; i < tile.rows; i++)
#pragma unroll
    for (int j = 0; j < tile.cols; j++) body(i, j, tile.row(i), tile.col(j));
}

// Leading rows and columns of a tile to global memory, added to what is there if `accumulate`.
template <class Act, int N>
__device__ void write_rows(const Tile<Act, N>& tile, Act* to, int64_t stride, int64_t rows, int64_t cols, bool accumulate) {
  each(tile, [&](int i, int j, int r, int c) {
    if (r >= rows || c >= cols) return;
    Act* const out = to + r * stride + c;
    store_rounded(out, accumulate ? load(out) + tile.v[i][j] : tile.v[i][j]);
  });
}

// Sum and maximum over the lanes that share a row of a tile; all of them get it.
template <class T> __device__ float sum_of_row(float x) {
#pragma unroll
  for (int step = Tile<T, TILE>::lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
template <class T> __device__ float largest_of_row(float x) {
#pragma unroll
  for (int step = Tile<T, TILE>::lanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
