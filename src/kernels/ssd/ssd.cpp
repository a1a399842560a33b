// Forward of ssd.ts, chunk by chunk as ssd_chunk.h describes.
#include "ssd_chunk.h"

using namespace ssd_chunk;

template <class Act> static void ssd(const ssd_args<Act>& a) {
  const Sizes s(a);
  const int64_t Q = s.chunk, P = s.head_dim, N = s.state;
  parallel_for(s.tasks(), [&](int64_t number) {
    const Task task(s, number);
    int64_t floats = Decays::size(Q) + Pieces::rounded(task_heads * N * P) + 16;
    for (int64_t size : {Q * N, Q * N, Q * N, Q * Q, Q * Q, Q * P, Q * P, Q * P}) floats += Pieces::rounded(size);
    Pieces pieces{static_cast<float*>(scratch(1, floats * 4))};
    Decays decays(pieces, Q);
    // The entering state of each head, N x P.
    float* states = pieces.take(task_heads * N * P);
    float *C = pieces.take(Q * N), *B = pieces.take(Q * N), *B_transposed = pieces.take(Q * N);
    float *CB = pieces.take(Q * Q), *weights = pieces.take(Q * Q);
    float *x = pieces.take(Q * P), *scaled = pieces.take(Q * P), *y = pieces.take(Q * P);
    memset(states, 0, task_heads * N * P * 4);
    for (int64_t number = 0; number < s.chunks; number++) {
      const Chunk chunk(s, task, number);
      const int64_t q = chunk.length;
      const Act* rows = a.xbc + chunk.row * a.channels;
      gather(q, N, rows + a.inner + task.group * N, a.channels, B);
      gather(q, N, rows + a.inner + (s.groups + task.group) * N, a.channels, C);
      transpose(q, N, B, B_transposed);
      lower_product(q, N, C, B_transposed, CB);
      for (int64_t h = 0; h < task.heads; h++) {
        const int64_t head = task.first_head + h;
        float* H = states + h * N * P;
        decays.compute(a, chunk, head);
        for (int64_t i = 0; i < q; i++) {
          float* __restrict row = weights + i * q;
          decays.row(i, row);
          for (int64_t j = 0; j <= i; j++) row[j] *= CB[i * q + j] * decays.delta[j];
          memset(row + i + 1, 0, (std::min(q, i / block_rows * block_rows + block_rows) - i - 1) * 4);
        }
        gather(q, P, rows + head * P, a.channels, x);
        // H C_i for all rows; rows that do not see it have enter 0.
        if (decays.entered) {
          product(q, P, N, C, N, 1, H, P, y, P, false);
          for (int64_t i = 0; i < q; i++)
            for (int64_t p = 0; p < P; p++) y[i * P + p] *= decays.enter[i];
        }
        multiply_lower(q, P, weights, x, y, decays.entered);
        for (int64_t i = 0; i < q; i++) {
          Act* out = a.y + (chunk.row + i) * a.inner + head * P;
          for (int64_t p = 0; p < P; p++) store(out + p, multiply_add(a.skip[head], x[i * P + p], y[i * P + p]));
        }
        if (number + 1 == s.chunks) continue;
        for (int64_t j = 0; j < q; j++) {
          const float factor = decays.leave[j] * decays.delta[j];
          for (int64_t p = 0; p < P; p++) scaled[j * P + p] = factor * x[j * P + p];
        }
        for (int64_t i = 0; i < N * P; i++) H[i] *= decays.carry;
        product(N, P, q, B_transposed, q, 1, scaled, P, H, P, true);
      }
    }
  });
}
EXPORT_ACT(ssd)
