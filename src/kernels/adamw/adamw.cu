// adamw.ts: one pass over memory; every operation rounded, in the order of the reference.
#include "cuda.h"

// adamwFlags of adamw.ts.
static constexpr int decays = 1, cleared = 2;
static constexpr uint32_t uncopied = 0xffffffffu;

__device__ void run_adamw(const adamw_args& a) {
  if (a.control[5] == 0.0f) return;
  const float rate = a.control[0], inverse1 = 1.0f / a.control[1], inverse2 = 1.0f / a.control[2], factor = a.control[3];
  const float rest1 = 1.0f - a.beta1, rest2 = 1.0f - a.beta2;
  const auto update = [&](float g, float& m, float& v, float& w, int flags) {
    const float x = g * factor;
    m = a.beta1 * m + rest1 * x;
    v = a.beta2 * v + rest2 * x * x;
    const float step = m * inverse1 / (sqrtf(v * inverse2) + a.eps);
    const float shrink = flags & decays ? a.weight_decay * w : 0.0f;
    w = w - rate * (step + shrink);
  };
  int64_t done = 0;
  if (in_sixteens(a.w, a.m, a.v, a.g)) {
    done = a.n / 4 * 4;
    GRID_LOOP(u, a.n / 4) {
      const float4 g = reinterpret_cast<const float4*>(a.g)[u];
      float4 m = reinterpret_cast<float4*>(a.m)[u], v = reinterpret_cast<float4*>(a.v)[u], w = reinterpret_cast<float4*>(a.w)[u];
      const int flags = a.flags[u >> 2];
      update(g.x, m.x, v.x, w.x, flags);
      update(g.y, m.y, v.y, w.y, flags);
      update(g.z, m.z, v.z, w.z, flags);
      update(g.w, m.w, v.w, w.w, flags);
      reinterpret_cast<float4*>(a.m)[u] = m;
      reinterpret_cast<float4*>(a.v)[u] = v;
      reinterpret_cast<float4*>(a.w)[u] = w;
      if (flags & cleared) reinterpret_cast<float4*>(a.g)[u] = make_float4(0, 0, 0, 0);
      if (!a.places) continue;
      const uint32_t place = a.places[u >> 2];
      if (place != uncopied)
        reinterpret_cast<uint2*>(a.rounded)[(int64_t)place * 4 + (u & 3)] = make_uint2(pack_bf16(w.x, w.y), pack_bf16(w.z, w.w));
    }
  }
  GRID_LOOP(u, a.n - done) {
    const int64_t i = done + u;
    update(a.g[i], a.m[i], a.v[i], a.w[i], a.flags[i >> 4]);
    if (a.flags[i >> 4] & cleared) a.g[i] = 0.0f;
    if (a.places && a.places[i >> 4] != uncopied) store(a.rounded + (int64_t)a.places[i >> 4] * 16 + (i & 15), a.w[i]);
  }
}
EXPORT_CUDA(adamw)
