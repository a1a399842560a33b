// rotate.ts.
#include "piece_cuda.h"

template <class Act> __device__ void rotate(const rotate_args<Act>& a) {
  auto& [loaded, rotated] = shared_pieces();
  const Cut cut(a.rows, a.cols, a.columns != 0);
  EACH_BLOCK(task, cut.down() * cut.across()) {
    const int64_t line = task / cut.across() * LINES, start = task % cut.across() * SPAN;
    const Piece& piece = prepare_piece(loaded, rotated, a.x, cut, line, start, a.hadamard, a.signs);
    const int lanes = cut.lanes(line), count = cut.count(start);
    BLOCK_LOOP(u, LINES * SPAN) {
      const int l = (int)(cut.columns ? u % LINES : u / SPAN), i = (int)(cut.columns ? u / LINES : u % SPAN);
      if (l < lanes && i < count) store(a.y + cut.at(line + l, start + i), piece.value[i][l]);
    }
  }
}
EXPORT_CUDA_ACT(rotate)
