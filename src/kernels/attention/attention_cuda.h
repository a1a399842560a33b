// What attention on a GPU knows of a call, whatever the dtype of activations.
#pragma once
#include "cuda.h"

static constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

// Where heads lie: `row` elements from one row of a sequence to the next.
struct Heads {
  int64_t kv_heads, group, sequence, dim, row, out_row;
  float scale, scale_log2;

  template <class Args> __device__ explicit Heads(const Args& a)
      : kv_heads((a.columns - a.heads) / 2), group(a.heads / kv_heads), sequence(a.sequence), dim(a.dim),
        row(a.columns * a.dim), out_row(a.heads * a.dim), scale((float)(1.0 / sqrt((double)dim))), scale_log2(scale * log2_e) {}
};
