// Forward of ssd.ts, chunk by chunk as ssd_chunk.h describes.
#include "ssd_chunk.h"

using namespace ssd_chunk;

namespace {

template <class Act> struct Forward {
  const ssd_args<Act>& a;
  const Sizes& s;
  const int64_t Q, P, N;
  Decays decays;
  // The entering state of each head, N x P.
  float* states[task_heads];
  float *C, *B, *B_transposed, *CB, *weights, *x, *scaled, *y;

  Forward(const ssd_args<Act>& a, const Sizes& s, Pieces& pieces)
      : a(a), s(s), Q(s.chunk), P(s.head_dim), N(s.state), decays(pieces, s.chunk) {
    for (float*& state : states) state = pieces.matrix(N, P);
    for (float** p : {&C, &B}) *p = pieces.matrix(Q, N);
    B_transposed = pieces.matrix(N, Q);
    CB = pieces.matrix(Q, Q);
    // L_ij (C_i.B_j) D_j of one block of rows.
    weights = pieces.matrix(block_rows, Q);
    for (float** p : {&x, &scaled, &y}) *p = pieces.matrix(Q, P);
  }

  void head(const Chunk& chunk, int64_t head, float* H, bool last) {
    const int64_t q = chunk.length, width = padded(P);
    decays.compute(a, chunk, head);
    gather(q, P, a.xbc + chunk.row * a.channels + head * P, a.channels, x);
    if (decays.entered) {
      product(q, P, N, C, padded(N), 1, H, width, y, width, false);
      for (int64_t i = 0; i < q; i++)
        for (int64_t p = 0; p < P; p++) y[i * width + p] *= decays.enter[i];
    }
    for (int64_t block = 0; block < q; block += block_rows) {
      const int64_t rows = std::min(block_rows, q - block), columns = block + rows;
      for (int64_t i = block; i < columns; i++) {
        float* row = weights + (i - block) * padded(q);
        const float *cb = CB + i * padded(q), *delta = decays.delta;
        decays.row(i, q, [=](int64_t j, float l, bool inside) { row[j] = inside ? l * cb[j] * delta[j] : 0.0f; });
      }
      product(rows, P, columns, weights, padded(q), 1, x, width, y + block * width, width, decays.entered);
    }
    const float skip = a.skip[head];
    for (int64_t i = 0; i < q; i++) {
      Act* out = a.y + (chunk.row + i) * a.inner + head * P;
#pragma GCC ivdep
      for (int64_t p = 0; p < P; p++) store(out + p, multiply_add(skip, x[i * width + p], y[i * width + p]));
    }
    if (last) return;
    for (int64_t j = 0; j < q; j++) {
      const float factor = decays.leave[j] * decays.delta[j];
      for (int64_t p = 0; p < P; p++) scaled[j * width + p] = factor * x[j * width + p];
    }
    for (int64_t i = 0; i < N * width; i++) H[i] *= decays.carry;
    product(N, P, q, B, 1, padded(N), scaled, width, H, width, true);
  }

  void run(const Task& task) {
    for (float* state : states) memset(state, 0, padded(N) * padded(P) * 4);
    for (int64_t number = 0; number < s.chunks; number++) {
      const Chunk chunk(s, task, number);
      const Act* rows = a.xbc + chunk.row * a.channels + a.inner;
      gather(chunk.length, N, rows + task.group * N, a.channels, B);
      gather(chunk.length, N, rows + (s.groups + task.group) * N, a.channels, C);
      transpose(chunk.length, N, B, B_transposed);
      lower_product(chunk.length, N, C, B_transposed, CB);
      for (int64_t h = 0; h < task.heads; h++) head(chunk, task.first_head + h, states[h], number + 1 == s.chunks);
    }
  }
};

}  // namespace

template <class Act> static void ssd(const ssd_args<Act>& a) {
  const Sizes s(a);
  Pieces count{nullptr};
  Forward<Act>(a, s, count);
  parallel_for(s.tasks(), [&](int64_t number) {
    Pieces pieces{static_cast<float*>(scratch(1, count.used * 4))};
    Forward<Act>(a, s, pieces).run(Task(s, number));
  });
}
EXPORT_ACT(ssd)
