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

template <class Act> struct Backward {
  const ssd_backward_args<Act>& a;
  const Sizes& s;
  const Task task;
  const int64_t Q, P, N;
  Decays decays;
  float *states, *dstates, *C, *B, *B_transposed, *dC, *dB, *CB, *K, *S, *X, *x, *x_transposed, *g, *scaled, *dx, *R, *U, *turned;
  float *direct, *own, *dl;

  static int64_t floats(const Sizes& s) {
    const int64_t Q = s.chunk, P = s.head_dim, N = s.state;
    int64_t sum = Decays::size(Q) + Pieces::rounded(task_heads * s.chunks * P * N) + Pieces::rounded(task_heads * N * P);
    sum += 6 * Pieces::rounded(Q * N) + 4 * Pieces::rounded(Q * Q) + 6 * Pieces::rounded(Q * P);
    return sum + Pieces::rounded(N * P) + 3 * Pieces::rounded(Q);
  }

  Backward(const ssd_backward_args<Act>& a, const Sizes& s, int64_t number, Pieces pieces)
      : a(a), s(s), task(s, number), Q(s.chunk), P(s.head_dim), N(s.state), decays(pieces, s.chunk) {
    states = pieces.take(task_heads * s.chunks * P * N);
    dstates = pieces.take(task_heads * N * P);
    for (float** p : {&C, &B, &B_transposed, &dC, &dB, &U}) *p = pieces.take(Q * N);
    for (float** p : {&CB, &K, &S, &X}) *p = pieces.take(Q * Q);
    for (float** p : {&x, &x_transposed, &g, &scaled, &dx, &R}) *p = pieces.take(Q * P);
    turned = pieces.take(N * P);
    for (float** p : {&direct, &own, &dl}) *p = pieces.take(Q);
  }

  const Act* row(const Chunk& chunk) const { return a.xbc + chunk.row * a.channels; }
  // The state, P x N, that enters a chunk.
  float* state(int64_t h, int64_t chunk) const { return states + (h * s.chunks + chunk) * P * N; }

  void scale_rows(int64_t q, const float* from, const float* factors, float* to) const {
    for (int64_t i = 0; i < q; i++)
      for (int64_t p = 0; p < P; p++) to[i * P + p] = factors[i] * from[i * P + p];
  }

  void recompute_states() {
    for (int64_t h = 0; h < task.heads; h++) memset(state(h, 0), 0, P * N * 4);
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
        for (int64_t i = 0; i < P * N; i++) next[i] = decays.carry * H[i];
        product(P, N, chunk.length, scaled, 1, P, B, N, next, N, true);
      }
    }
  }

  // scaled_j = leave_j D_j x_j
  void leaving(int64_t q) {
    for (int64_t j = 0; j < q; j++) dl[j] = decays.leave[j] * decays.delta[j];
    scale_rows(q, x, dl, scaled);
  }

  // S = L (C.B), K += L D X, and the sums over rows and columns of S D X and S X but for the diagonal.
  void triangle(int64_t q) {
    memset(direct, 0, q * 4);
    for (int64_t i = 0; i < q; i++) {
      float *__restrict l = S + i * q, *__restrict k = K + i * q;
      const float *__restrict product_x = X + i * q, *__restrict cb = CB + i * q;
      decays.row(i, l);
      float lanes[16] = {};
      int64_t j = 0;
      const auto element = [&](int64_t j) {
        const float scaled_x = decays.delta[j] * product_x[j];
        k[j] = multiply_add(l[j], scaled_x, k[j]);
        l[j] *= cb[j];
        direct[j] = multiply_add(l[j], product_x[j], direct[j]);
        return l[j] * scaled_x;
      };
      for (; j + 16 <= i; j += 16)
        for (int64_t lane = 0; lane < 16; lane++) lanes[lane] += element(j + lane);
      double sum = 0;
      for (; j < i; j++) sum += element(j);
      for (float lane : lanes) sum += lane;
      dl[i] = (float)sum;
      k[i] += decays.delta[i] * product_x[i];
      l[i] = cb[i];
      own[i] = cb[i] * product_x[i];
      memset(l + i + 1, 0, (std::min(q, i / block_rows * block_rows + block_rows) - i - 1) * 4);
    }
  }

  static float dot(int64_t n, const float* u, const float* v) {
    float lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
      for (int64_t lane = 0; lane < 16; lane++) lanes[lane] = multiply_add(u[i + lane], v[i + lane], lanes[lane]);
    float sum = 0;
    for (; i < n; i++) sum += u[i] * v[i];
    for (float lane : lanes) sum += lane;
    return sum;
  }

  void head(const Chunk& chunk, int64_t number, int64_t h, HeadSums& sums) {
    const int64_t head = task.first_head + h, q = chunk.length;
    const bool left = number + 1 < s.chunks;
    float* dH = dstates + h * N * P;
    const float* H = state(h, number);
    const float skip = a.skip[head];
    decays.compute(a, chunk, head);
    gather(q, P, row(chunk) + head * P, a.channels, x);
    gather(q, P, a.dy + chunk.row * a.inner + head * P, a.inner, g);
    transpose(q, P, x, x_transposed);

    double last = 0;
    if (left) {
      product(q, P, N, B, N, 1, dH, P, R, P, false);
      leaving(q);
      transpose(N, P, dH, turned);
      product(q, N, P, scaled, P, 1, turned, N, dB, N, true);
      last = decays.carry * (double)dot(N * P, turned, H);
    }

    lower_product(q, P, g, x_transposed, X);
    triangle(q);
    multiply_lower_transposed(q, P, S, g, dx, false);

    for (int64_t j = 0; j < q; j++) {
      float *__restrict out = dx + j * P, *__restrict r = R + j * P;
      const float* gradient = g + j * P;
      if (left) {
        const float through = decays.leave[j] * dot(P, x + j * P, r);
        if (j + 1 == q) own[j] += through;
        else {
          direct[j] += through;
          last += (double)decays.delta[j] * through;
        }
        for (int64_t p = 0; p < P; p++) out[p] = multiply_add(decays.leave[j], r[p], out[p]);
      }
      Act* to = a.dxbc + (chunk.row + j) * a.channels + head * P;
      for (int64_t p = 0; p < P; p++) {
        const float value = multiply_add(decays.delta[j], out[p], skip * gradient[p]);
        store(to + p, a.accumulate ? load(to + p) + value : value);
      }
      sums.skip += dot(P, gradient, x + j * P);
    }

    scale_rows(q, g, decays.enter, scaled);
    if (decays.entered) {
      product(q, N, P, scaled, P, 1, H, N, U, N, false);
      for (int64_t i = 0; i < q; i++) {
        dl[i] += dot(N, U + i * N, C + i * N);
        for (int64_t n = 0; n < N; n++) dC[i * N + n] += U[i * N + n];
      }
    }
    if (number > 0) {
      for (int64_t i = 0; i < N * P; i++) dH[i] *= decays.carry;
      product(N, P, q, C, 1, N, scaled, P, dH, P, true);
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

  // Whatever else sums over the heads of a group is written to `partial`, rows of [dB | dC] of one task.
  void run(HeadSums* sums, float* partial) {
    recompute_states();
    memset(dstates, 0, task_heads * N * P * 4);
    for (int64_t number = s.chunks - 1; number >= 0; number--) {
      const Chunk chunk(s, task, number);
      const int64_t q = chunk.length;
      gather(q, N, row(chunk) + a.inner + task.group * N, a.channels, B);
      gather(q, N, row(chunk) + a.inner + (s.groups + task.group) * N, a.channels, C);
      transpose(q, N, B, B_transposed);
      lower_product(q, N, C, B_transposed, CB);
      for (float* zeroed : {dB, dC}) memset(zeroed, 0, q * N * 4);
      memset(K, 0, q * q * 4);
      for (int64_t h = 0; h < task.heads; h++) head(chunk, number, h, sums[h]);
      multiply_lower(q, N, K, B, dC, true);
      multiply_lower_transposed(q, N, K, C, dB, true);
      for (int64_t i = 0; i < q; i++) {
        memcpy(partial + (chunk.begin + i) * 2 * N, dB + i * N, N * 4);
        memcpy(partial + (chunk.begin + i) * 2 * N + N, dC + i * N, N * 4);
      }
    }
  }
};

}  // namespace

template <class Act> static void ssd_backward(const ssd_backward_args<Act>& a) {
  const Sizes s(a);
  const int64_t N = s.state, per_task = s.sequence * 2 * N;
  // Per task: sums of its heads, then dB and dC of its rows.
  HeadSums* sums = static_cast<HeadSums*>(scratch(0, s.tasks() * (task_heads * (int64_t)sizeof(HeadSums) + per_task * 4)));
  float* partial = reinterpret_cast<float*>(sums + s.tasks() * task_heads);
  parallel_for(s.tasks(), [&](int64_t number) {
    Pieces pieces{static_cast<float*>(scratch(1, Backward<Act>::floats(s) * 4))};
    memset(sums + number * task_heads, 0, task_heads * sizeof(HeadSums));
    Backward<Act>(a, s, number, pieces).run(sums + number * task_heads, partial + number * per_task);
  });
  parallel_rows(a.rows, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      for (int64_t group = 0; group < s.groups; group++)
        for (int64_t n = 0; n < 2 * N; n++) {
          const int64_t first = (r / s.sequence * s.groups + group) * s.parts;
          float sum = 0;
          for (int64_t part = 0; part < s.parts; part++) sum += partial[(first + part) * per_task + r % s.sequence * 2 * N + n];
          const int64_t column = n < N ? group * N + n : (s.groups + group) * N + n - N;
          Act* to = a.dxbc + r * a.channels + a.inner + column;
          store(to, a.accumulate ? load(to) + sum : sum);
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
