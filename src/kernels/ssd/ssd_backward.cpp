// Backward of ssd.ts. With H' and dH' at the end of a chunk, R_j = dH' B_j, U_i = H^T g_i and X_ij = g_i.x_j:
//
//   dH   = carry dH' + sum_i enter_i g_i C_i^T
//   dC_i = sum_j K_ij B_j + enter_i U_i                       K_ij = sum over heads of L_ij D_j X_ij
//   dB_j = sum_i K_ij C_i + leave_j D_j dH'^T x_j
//   dx_j = D_j (sum_i L_ij (C_i.B_j) g_i + leave_j R_j) + skip g_j
//   direct_j = sum_i L_ij (C_i.B_j) X_ij + leave_j x_j.R_j
//   dl_i = sum_j L_ij (C_i.B_j) D_j X_ij + enter_i U_i.C_i - D_i direct_i
//   dl_Q += carry <dH', H> + sum_j leave_j D_j x_j.R_j
//   da_k = sum_{i>=k} dl_i        dD_k = direct_k + A da_k
//
// What a token adds to its own row, i = j, and the last token to the state it ends in, decays by nothing: dl_i takes and gives it
// alike. It is kept apart as own_j and left out of dl, where its rounding would drown what fast decay leaves of the rest.
//
// The states that enter the chunks are computed again first, all of a task's, then the chunks are taken from the last to the first.
#include "ssd_chunk.h"

using namespace ssd_chunk;

namespace {

// Sums of one head over one sequence.
struct HeadSums {
  double bias, rate, skip;
};

float sum_of_lanes(vec sums) {
  alignas(64) float lanes[vec_lanes];
  vec_store(lanes, sums);
  for (int half = vec_lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
  return lanes[0];
}

float sum(int64_t n, const float* u) {
  vec sums = vec_set(0);
  int64_t i = 0;
  for (; i + vec_lanes <= n; i += vec_lanes) sums = sums + vec_load(u + i);
  float rest = 0;
  for (; i < n; i++) rest += u[i];
  return sum_of_lanes(sums) + rest;
}

float dot(int64_t n, const float* u, const float* v) {
  vec sums = vec_set(0);
  int64_t i = 0;
  for (; i + vec_lanes <= n; i += vec_lanes) sums = vec_fma(vec_load(u + i), vec_load(v + i), sums);
  float rest = 0;
  for (; i < n; i++) rest += u[i] * v[i];
  return sum_of_lanes(sums) + rest;
}

template <class Act> struct Backward {
  const ssd_backward_args<Act>& a;
  const Sizes& s;
  const int64_t Q, P, N, state_size;
  Decays decays;
  // P x N of every head and chunk; N x P of every head.
  float *states, *dstates;
  float *C, *B, *B_transposed, *dC, *dB, *CB, *K, *strip, *x, *x_transposed, *g, *scaled, *dx, *R, *U, *turned;
  float *direct, *own, *dl, *terms;

  Backward(const ssd_backward_args<Act>& a, const Sizes& s, Pieces& pieces)
      : a(a), s(s), Q(s.chunk), P(s.head_dim), N(s.state), state_size(padded(P) * padded(N)), decays(pieces, s.chunk) {
    states = pieces.vector(task_heads * s.chunks * state_size);
    dstates = pieces.vector(task_heads * state_size);
    for (float** p : {&C, &B, &dC, &dB, &U}) *p = pieces.matrix(Q, N);
    B_transposed = pieces.matrix(N, Q);
    for (float** p : {&CB, &K}) *p = pieces.matrix(Q, Q);
    for (float** p : {&x, &g, &scaled, &dx}) *p = pieces.matrix(Q, P);
    // R follows in the place of x transposed.
    x_transposed = R = pieces.matrix(P, Q);
    strip = pieces.matrix(block_rows, Q);
    turned = pieces.matrix(P, N);
    for (float** p : {&direct, &own, &dl, &terms}) *p = pieces.vector(Q);
  }

  const Act* row(const Chunk& chunk) const { return a.xbc + chunk.row * a.channels; }
  // The state, P x N, that enters a chunk.
  float* state(int64_t h, int64_t chunk) const { return states + (h * s.chunks + chunk) * state_size; }

  static void scale_rows(int64_t rows, int64_t cols, const float* from, const float* factors, float* to) {
    for (int64_t i = 0; i < rows; i++) {
      const float factor = factors[i];
#pragma GCC ivdep
      for (int64_t c = 0; c < cols; c++) to[i * padded(cols) + c] = factor * from[i * padded(cols) + c];
    }
  }

  // scaled_j = leave_j D_j x_j
  void leaving(int64_t q) {
    for (int64_t j = 0; j < q; j++) terms[j] = decays.leave[j] * decays.delta[j];
    scale_rows(q, P, x, terms, scaled);
  }

  void recompute_states(const Task& task) {
    for (int64_t h = 0; h < task.heads; h++) memset(state(h, 0), 0, state_size * 4);
    for (int64_t number = 0; number + 1 < s.chunks; number++) {
      const Chunk chunk(s, task, number);
      gather(chunk.length, N, row(chunk) + a.inner + task.group * N, a.channels, B);
      for (int64_t h = 0; h < task.heads; h++) {
        const int64_t head = task.first_head + h;
        decays.compute(a, chunk, head);
        gather(chunk.length, P, row(chunk) + head * P, a.channels, x);
        leaving(chunk.length);
        const float* H = state(h, number);
        float* next = state(h, number + 1);
        for (int64_t i = 0; i < state_size; i++) next[i] = decays.carry * H[i];
        product(P, N, chunk.length, scaled, 1, padded(P), B, padded(N), next, padded(N), true);
      }
    }
  }

  // By blocks of rows: X, then S = L (C.B) in its place, K += L D X, the sums over rows and columns of S D X and S X but for the
  // diagonal, and dx = S^T g.
  void triangle(int64_t q) {
    const int64_t width = padded(q), p_width = padded(P);
    memset(direct, 0, q * 4);
    memset(dx, 0, q * p_width * 4);
    for (int64_t block = 0; block < q; block += block_rows) {
      const int64_t rows = std::min(block_rows, q - block), columns = block + rows;
      const float* gradients = g + block * p_width;
      product(rows, columns, P, gradients, p_width, 1, x_transposed, width, strip, width, false);
      for (int64_t i = block; i < columns; i++) {
        float *dots = strip + (i - block) * width, *k = K + i * width, *column = direct, *term = terms;
        const float *cb = CB + i * width, *delta = decays.delta;
        own[i] = cb[i] * dots[i];
        decays.row(i, q, [=](int64_t j, float decay, bool inside) {
          const float dot = dots[j];
          const float weight = decay * cb[j];
          const float product = (inside & (j < i)) ? weight * dot : 0.0f;
          k[j] += inside ? decay * (delta[j] * dot) : 0.0f;
          dots[j] = inside ? weight : 0.0f;
          column[j] += product;
          term[j] = product * delta[j];
        });
        dl[i] = sum(i, terms);
      }
      product(columns, P, rows, strip, 1, width, gradients, p_width, dx, p_width, true);
    }
  }

  void head(const Chunk& chunk, bool left, const float* H, float* dH, int64_t head, HeadSums& sums) {
    const int64_t q = chunk.length, p_width = padded(P), n_width = padded(N);
    const float skip = a.skip[head];
    decays.compute(a, chunk, head);
    gather(q, P, row(chunk) + head * P, a.channels, x);
    gather(q, P, a.dy + chunk.row * a.inner + head * P, a.inner, g);
    transpose(q, P, x, x_transposed);
    triangle(q);

    double last = 0;
    if (left) {
      product(q, P, N, B, n_width, 1, dH, p_width, R, p_width, false);
      leaving(q);
      transpose(N, P, dH, turned);
      product(q, N, P, scaled, p_width, 1, turned, n_width, dB, n_width, true);
      for (int64_t p = 0; p < P; p++) last += dot(N, turned + p * n_width, H + p * n_width);
      last *= decays.carry;
    }

    for (int64_t j = 0; j < q; j++) {
      float *out = dx + j * p_width, *r = R + j * p_width;
      const float *gradient = g + j * p_width, delta = decays.delta[j], leave = decays.leave[j];
      if (left) {
        const float through = leave * dot(P, x + j * p_width, r);
        if (j + 1 == q) own[j] += through;
        else {
          direct[j] += through;
          last += (double)delta * through;
        }
#pragma GCC ivdep
        for (int64_t p = 0; p < P; p++) out[p] = multiply_add(leave, r[p], out[p]);
      }
      Act* to = a.dxbc + (chunk.row + j) * a.channels + head * P;
      const bool accumulate = a.accumulate;
#pragma GCC ivdep
      for (int64_t p = 0; p < P; p++) {
        const float value = multiply_add(delta, out[p], skip * gradient[p]);
        store(to + p, accumulate ? load(to + p) + value : value);
      }
      sums.skip += dot(P, gradient, x + j * p_width);
    }

    scale_rows(q, P, g, decays.enter, scaled);
    if (decays.entered) {
      product(q, N, P, scaled, p_width, 1, H, n_width, U, n_width, false);
      for (int64_t i = 0; i < q; i++) {
        dl[i] += dot(N, U + i * n_width, C + i * n_width);
#pragma GCC ivdep
        for (int64_t n = 0; n < N; n++) dC[i * n_width + n] += U[i * n_width + n];
      }
    }
    if (chunk.begin > 0) {
      for (int64_t i = 0; i < state_size; i++) dH[i] *= decays.carry;
      product(N, P, q, C, 1, n_width, scaled, p_width, dH, p_width, true);
    }

    double da = last;
    for (int64_t k = q - 1; k >= 0; k--) {
      const int64_t r = chunk.row + k;
      da += (double)dl[k] - (double)decays.delta[k] * direct[k];
      Act* dt = a.dprojection + r * a.width + a.offset + head;
      const float biased = load(a.projection + r * a.width + a.offset + head) + a.dtBias[head];
      const float ddt = (float)((double)direct[k] + own[k] + decays.rate * da) * fast_sigmoid(biased);
      store(dt, ddt);
      sums.bias += ddt;
      sums.rate += decays.delta[k] * da;
    }
  }

  // What sums over the heads of a group is written to `partial`, rows of [dB | dC] of one task.
  void run(const Task& task, HeadSums* sums, float* partial) {
    recompute_states(task);
    memset(dstates, 0, task_heads * state_size * 4);
    for (int64_t number = s.chunks - 1; number >= 0; number--) {
      const Chunk chunk(s, task, number);
      const int64_t q = chunk.length;
      gather(q, N, row(chunk) + a.inner + task.group * N, a.channels, B);
      gather(q, N, row(chunk) + a.inner + (s.groups + task.group) * N, a.channels, C);
      transpose(q, N, B, B_transposed);
      lower_product(q, N, C, B_transposed, CB);
      for (float* zeroed : {dB, dC}) memset(zeroed, 0, q * padded(N) * 4);
      memset(K, 0, q * padded(q) * 4);
      for (int64_t h = 0; h < task.heads; h++)
        head(chunk, number + 1 < s.chunks, state(h, number), dstates + h * state_size, task.first_head + h, sums[h]);
      multiply_lower(q, N, K, B, dC);
      multiply_lower_transposed(q, N, K, C, dB);
      for (int64_t i = 0; i < q; i++) {
        memcpy(partial + (chunk.begin + i) * 2 * N, dB + i * padded(N), N * 4);
        memcpy(partial + (chunk.begin + i) * 2 * N + N, dC + i * padded(N), N * 4);
      }
    }
  }
};

template <class Act> void put(int64_t n, const float* __restrict values, bool accumulate, Act* __restrict to) {
  for (int64_t i = 0; i < n; i++) store(to + i, accumulate ? load(to + i) + values[i] : values[i]);
}

}  // namespace

template <class Act> static void ssd_backward(const ssd_backward_args<Act>& a) {
  const Sizes s(a);
  const int64_t N = s.state, per_task = s.sequence * 2 * N;
  // Per task: sums of its heads, then dB and dC of its rows.
  HeadSums* sums = static_cast<HeadSums*>(scratch(0, s.tasks() * (task_heads * (int64_t)sizeof(HeadSums) + per_task * 4)));
  float* partial = reinterpret_cast<float*>(sums + s.tasks() * task_heads);
  Pieces count{nullptr};
  Backward<Act>(a, s, count);
  parallel_for(s.tasks(), [&](int64_t number) {
    Pieces pieces{static_cast<float*>(scratch(1, count.used * 4))};
    memset(sums + number * task_heads, 0, task_heads * sizeof(HeadSums));
    Backward<Act>(a, s, pieces).run(Task(s, number), sums + number * task_heads, partial + number * per_task);
  });
  parallel_rows(a.rows, 32, [&](int64_t begin, int64_t end) {
    float* sum = static_cast<float*>(scratch(1, 2 * N * 4));
    for (int64_t r = begin; r < end; r++)
      for (int64_t group = 0; group < s.groups; group++) {
        const int64_t first = (r / s.sequence * s.groups + group) * s.parts;
        const float* terms = partial + first * per_task + r % s.sequence * 2 * N;
        memcpy(sum, terms, 2 * N * 4);
        for (int64_t part = 1; part < s.parts; part++)
          for (int64_t n = 0; n < 2 * N; n++) sum[n] += terms[part * per_task + n];
        Act* to = a.dxbc + r * a.channels + a.inner + group * N;
        put(N, sum, a.accumulate, to);
        put(N, sum + N, a.accumulate, to + s.groups * N);
      }
  });
  for (int64_t number = 0; number < s.tasks(); number++) {
    const Task task(s, number);
    for (int64_t h = 0; h < task.heads; h++) {
      const int64_t head = task.first_head + h;
      const HeadSums& sum = sums[number * task_heads + h];
      a.ddtBias[head] += (float)sum.bias;
      a.daLog[head] += (float)(-std::exp(a.aLog[head]) * sum.rate);
      a.dskip[head] += (float)sum.skip;
    }
  }
}
EXPORT_ACT(ssd_backward)
