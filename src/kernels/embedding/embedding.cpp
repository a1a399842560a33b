// Forward and backward of embedding.ts. The backward pass gives every task a range of columns and all rows, so that rows that share a
// token are added in order and no two tasks write the same element.
#include <limits>
#include "cpu.h"

template <class Act> static void embedding(const embedding_args<Act>& a) {
  parallel_rows(a.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      Act* y = a.y + r * a.cols;
      const int64_t token = a.tokens[r];
      if (token < 0 || token >= a.vocab) {
        for (int64_t c = 0; c < a.cols; c++) store(y + c, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      const float* w = a.w + token * a.cols;
      for (int64_t c = 0; c < a.cols; c++) store(y + c, w[c]);
    }
  });
}
EXPORT_ACT(embedding)

template <class Act> static void embedding_backward(const embedding_backward_args<Act>& a) {
  parallel_rows(a.cols, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < a.rows; r++) {
      const int64_t token = a.tokens[r];
      if (token < 0 || token >= a.vocab) continue;
      float* dw = a.dw + token * a.cols;
      const Act* dy = a.dy + r * a.cols;
      for (int64_t c = begin; c < end; c++) dw[c] += load(dy + c);
    }
  });
}
EXPORT_ACT(embedding_backward)
