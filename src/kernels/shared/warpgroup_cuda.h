// Products on tensor cores of BF16 matrices that a warpgroup (128 threads, 4 warps) computes: 64 rows of the result, of which each warp has 16.
// The left operand is in registers or shared memory, the right one in shared memory, sums are in FP32 registers.
//
// On Hopper these are asynchronous instructions of the whole warpgroup (wgmma): between `fence_registers` and `wait_products` nothing may touch
// the registers of a product under way. Elsewhere they are m16n8k16 of each warp, done when the call returns. Registers mean the same in both: a
// lane has rows lane / 4 and lane / 4 + 8 of its warp's 16, and of each 8 columns those from 2 (lane % 4) on.
#pragma once
#include "fragments_cuda.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HALFBYTE_WGMMA
#endif

static constexpr int WARPGROUP = 128;

// 64 x N sums: v[j] is (row, c), (row, c + 1), (row + 8, c), (row + 8, c + 1) for c = 8 j + 2 (lane % 4).
template <int N> struct Sums {
  static constexpr int count = N / 8;
  float v[N / 8][4];
  __device__ void clear() {
#pragma unroll
    for (int j = 0; j < count; j++) v[j][0] = v[j][1] = v[j][2] = v[j][3] = 0;
  }
};

// A left operand of 64 x K in registers, as m16n8k16 takes it.
template <int K> struct Fragments {
  uint32_t v[K / 16][4];
};

__device__ inline int lane_of() { return threadIdx.x % 32; }
// Row of the warpgroup's 64 that v[j][2 i] is in; column of v[j][i % 2].
__device__ inline int row_of(int i) { return threadIdx.x / 32 % 4 * 16 + lane_of() / 4 + 8 * i; }
__device__ inline int col_of(int j) { return 8 * j + 2 * (lane_of() % 4); }

// Sums as a left operand, rounded to BF16.
template <int N> __device__ void round_sums(Fragments<N>& to, const Sums<N>& from) {
#pragma unroll
  for (int k = 0; k < N / 16; k++) {
    to.v[k][0] = pack_bf16(from.v[2 * k][0], from.v[2 * k][1]);
    to.v[k][1] = pack_bf16(from.v[2 * k][2], from.v[2 * k][3]);
    to.v[k][2] = pack_bf16(from.v[2 * k + 1][0], from.v[2 * k + 1][1]);
    to.v[k][3] = pack_bf16(from.v[2 * k + 1][2], from.v[2 * k + 1][3]);
  }
}

// 2^x in one instruction, within 2 units in the last place; results below 2^-126 are 0.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Dynamic shared memory; its first byte is aligned to 1024.
__device__ inline unsigned char* block_memory() {
  extern __shared__ __align__(1024) unsigned char memory_of_block[];
  return memory_of_block;
}

// A matrix in shared memory, from an address aligned to 1024 on: panels of 64 columns, one after the other, whose rows are 128 bytes. The eight
// units of 16 bytes of a row are permuted, unit u lying at u ^ (row % 8), so that neither rows nor columns fall on few banks.
template <int Rows, int Cols> struct Panels {
  static constexpr int rows = Rows, cols = Cols, panel_bytes = Rows * 128, bytes = (Cols + 63) / 64 * panel_bytes;
  uint32_t base;

  __device__ Panels() {}
  __device__ explicit Panels(const unsigned char* memory) : base((uint32_t)__cvta_generic_to_shared(memory)) {}
  __device__ uint32_t at(int r, int unit) const { return base + unit / 8 * panel_bytes + r * 128 + ((unit % 8 ^ r % 8) << 4); }

  // Starts copying the leading rows and columns of a matrix in global memory that `in_whole_units` is true of, with zeros elsewhere; see `finish_copies`.
  // For so many threads, whose first is at a multiple of their number.
  template <int Threads> __device__ void copy_units_from(const bf16* from, int64_t stride, int valid_rows, int valid_cols) const {
    constexpr int rows_at_once = Threads / 8;
    static_assert(rows_at_once % 8 == 0 && Rows % rows_at_once == 0 && Cols % 64 == 0, "a thread keeps its unit of a panel and its place within 8 rows");
    const int first = threadIdx.x % Threads / 8, unit = threadIdx.x % 8;
    const uint32_t to = at(first, unit);
#pragma unroll
    for (int c = 0; c < Cols; c += 64) {
      const bf16* source = from + first * stride + c + unit * 8;
      const int left = c + unit * 8 < valid_cols ? valid_rows - first : 0;
#pragma unroll
      for (int r = 0; r < Rows; r += rows_at_once) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + c / 64 * panel_bytes + r * 128), "l"(source), "r"(r < left ? 16 : 0) : "memory");
        source += rows_at_once * stride;
      }
    }
  }
  // The same of any matrix, by the block's 128 threads.
  __device__ void copy_from(const bf16* from, int64_t stride, int64_t valid_rows, int valid_cols, bool whole_units) const {
    if (whole_units) {
      copy_units_from<WARPGROUP>(from, stride, (int)(valid_rows < Rows ? valid_rows : Rows), valid_cols);
      return;
    }
    for (int u = threadIdx.x; u < Rows * Cols; u += WARPGROUP) {
      const int r = u / Cols, c = u % Cols;
      const uint16_t bits = r < valid_rows && c < valid_cols ? from[r * stride + c].bits : 0;
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(at(r, c / 8) + c % 8 * 2), "h"(bits) : "memory");
    }
  }
};

// Whether rows of a matrix can be copied 16 bytes at a time.
__device__ inline bool in_whole_units(const bf16* from, int64_t stride, int64_t cols) {
  return cols % 8 == 0 && stride % 8 == 0 && (reinterpret_cast<uint64_t>(from) & 15) == 0;
}

// Waits for this thread's copies and shows what it wrote to the tensor cores; a barrier must follow.
__device__ inline void finish_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
#ifdef HALFBYTE_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// The words of four lanes that share a row, exchanged: word w of lane l becomes word l of lane w.
__device__ inline void exchange_words(uint32_t (&words)[4]) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int w = 0; w < 4; w++) {
      if (w & distance) continue;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? words[w] : words[w + distance], distance);
      if (upper) words[w] = got;
      else words[w + distance] = got;
    }
  }
}

// 64 rows of a result to global memory, times factor(0) and factor(1) for a lane's two rows, added to what is there if `accumulate`. All lanes take part.
template <int N, class Factor>
__device__ void write_sums(const Sums<N>& sums, bf16* to, int64_t stride, int64_t rows, int64_t cols, bool accumulate, const Factor& factor) {
  if (!accumulate && in_whole_units(to, stride, cols)) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int r = row_of(i);
      const float f = factor(i);
#pragma unroll
      for (int j = 0; j < sums.count; j += 4) {
        uint32_t words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) words[w] = pack_bf16(sums.v[j + w][2 * i] * f, sums.v[j + w][2 * i + 1] * f);
        exchange_words(words);
        const int c = 8 * (j + lane_of() % 4);
        if (r < rows && c < cols) *reinterpret_cast<uint4*>(to + r * stride + c) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int r = row_of(i);
    if (r >= rows) continue;
    const float f = factor(i);
#pragma unroll
    for (int j = 0; j < sums.count; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        if (col_of(j) + e >= cols) continue;
        bf16* const out = to + r * stride + col_of(j) + e;
        const float x = sums.v[j][2 * i + e] * f;
        store(out, accumulate ? load(out) + x : x);
      }
  }
}

#ifdef HALFBYTE_WGMMA
// What an instruction is told of a matrix: its address, and the distance in bytes between panels (where its columns are the result's) and between
// groups of 8 rows, all in units of 16, and that units of 16 bytes are permuted within 128.
__device__ inline uint64_t describe_matrix(uint32_t address, int panel_bytes) {
  return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)(panel_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#define SUMS_8(j)                                                                                                          \
  "+f"(v[j][0]), "+f"(v[j][1]), "+f"(v[j][2]), "+f"(v[j][3]), "+f"(v[j + 1][0]), "+f"(v[j + 1][1]), "+f"(v[j + 1][2]),       \
      "+f"(v[j + 1][3])
#define SUMS_32(j) SUMS_8(j), SUMS_8(j + 2), SUMS_8(j + 4), SUMS_8(j + 6)
#define NAMES_32                                                                                                           \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "      \
  "%25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                                           \
  NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "     \
           "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA "wgmma.mma_async.sync.aligned.m64"

// v (+)= a b for one step of 16 along the contraction.
template <bool TransposedB> __device__ void multiply_step(float (&v)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" WGMMA "n64k16.f32.bf16.bf16 {" NAMES_32 "}, %32, %33, p, 1, 1, 0, %35;\n}\n"
               : SUMS_32(0) : "l"(a), "l"(b), "r"(add), "n"((int)TransposedB));
}
template <bool TransposedB> __device__ void multiply_step(float (&v)[8][4], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n" WGMMA
               "n64k16.f32.bf16.bf16 {" NAMES_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
               : SUMS_32(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"((int)TransposedB));
}
template <bool TransposedB> __device__ void multiply_step(float (&v)[16][4], uint64_t a, uint64_t b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n" WGMMA "n128k16.f32.bf16.bf16 {" NAMES_64 "}, %64, %65, p, 1, 1, 0, %67;\n}\n"
               : SUMS_32(0), SUMS_32(8) : "l"(a), "l"(b), "r"(add), "n"((int)TransposedB));
}
template <bool TransposedB> __device__ void multiply_step(float (&v)[16][4], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n" WGMMA
               "n128k16.f32.bf16.bf16 {" NAMES_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
               : SUMS_32(0), SUMS_32(8) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"((int)TransposedB));
}

__device__ inline void fence_registers() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `Left` of the committed groups are under way; `sums` are those of one that is done.
template <int Left, int N> __device__ void wait_products(Sums<N>& sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
#pragma unroll
  for (int j = 0; j < sums.count; j++)
    asm volatile("" : "+f"(sums.v[j][0]), "+f"(sums.v[j][1]), "+f"(sums.v[j][2]), "+f"(sums.v[j][3])::"memory");
}

// c (+)= a[64, K] b[N, K]^T; a's 64 rows may be some of a larger matrix's.
template <int N, int K, int Rows> __device__ void multiply_rows(Sums<N>& c, const Panels<Rows, K>& a, const Panels<N, K>& b, bool add) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    const uint64_t left = describe_matrix(a.base + k / 64 * a.panel_bytes + k % 64 * 2, 0);
    multiply_step<false>(c.v, left, describe_matrix(b.base + k / 64 * b.panel_bytes + k % 64 * 2, 0), add || k > 0);
  }
}
// c (+)= a[64, K] b[K, N].
template <int N, int K> __device__ void multiply_columns(Sums<N>& c, const Fragments<K>& a, const Panels<K, N>& b, bool add) {
#pragma unroll
  for (int k = 0; k < K; k += 16) multiply_step<true>(c.v, a.v[k / 16], describe_matrix(b.base + k * 128, b.panel_bytes), add || k > 0);
}

#else

__device__ inline void fence_registers() {}
__device__ inline void commit_products() {}
template <int Left, int N> __device__ void wait_products(Sums<N>&) {}

template <int N, int K, int Rows> __device__ void multiply_rows(Sums<N>& c, const Panels<Rows, K>& a, const Panels<N, K>& b, bool add) {
  const int lane = lane_of(), row = threadIdx.x / 32 * 16 + lane % 16;
  if (!add) c.clear();
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    uint32_t x[4];
    load_matrices_at<false>(x, a.at(row, k / 8 + lane / 16));
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t y[4];
      load_matrices_at<false>(y, b.at(n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
      multiply_fragments(c.v[n / 8], x, y[0], y[1]);
      multiply_fragments(c.v[n / 8 + 1], x, y[2], y[3]);
    }
  }
}
template <int N, int K> __device__ void multiply_columns(Sums<N>& c, const Fragments<K>& a, const Panels<K, N>& b, bool add) {
  const int lane = lane_of();
  if (!add) c.clear();
#pragma unroll
  for (int k = 0; k < K; k += 16)
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t y[4];
      load_matrices_at<true>(y, b.at(k + lane % 16, n / 8 + lane / 16));
      multiply_fragments(c.v[n / 8], a.v[k / 16], y[0], y[1]);
      multiply_fragments(c.v[n / 8 + 1], a.v[k / 16], y[2], y[3]);
    }
}
#endif
