// Products of BF16 on tensor cores by the fragments of a warp (mma.m16n8k16), and what goes in and out of them.
#pragma once
#include "cuda.h"

// `store` in one instruction, where bf16_bits takes ten; a NaN becomes the canonical one.
__device__ inline void store_rounded(bf16* to, float x) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
  to->bits = (uint16_t)pair;
}

// Four 8 x 8 matrices of BF16, whose rows begin in shared memory where lanes 0-7, 8-15, 16-23 and 24-31 say: each lane gets two elements of each, those of
// row lane / 4 and columns 2 (lane % 4), or of that column and those rows if transposed.
template <bool Transposed> __device__ void load_matrices_at(uint32_t (&words)[4], uint32_t address) {
  if (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
}

template <bool Transposed> __device__ void load_matrices(uint32_t (&words)[4], const bf16* row) {
  load_matrices_at<Transposed>(words, (uint32_t)__cvta_generic_to_shared(row));
}

// c[16, 8] += a[16, 16] b[16, 8] over a warp. c is elements (row, 0), (row, 1), (row + 8, 0) and (row + 8, 1) from column 2 (lane % 4).
__device__ inline void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Largest of, and sum over, the four lanes that share a row of a product.
__device__ inline float largest_of_lanes(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float sum_of_lanes(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
