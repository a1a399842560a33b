// Forward and backward of gated_norm.ts. A slice of a row is spread in eights over some lanes of a block, which keep them in registers: what the
// sum over a slice is made of is not read again. A sum over a slice is a tree over the lanes of a warp, then over its warps. dw is summed per lane,
// rows in order, then over the lanes of a block that have the same columns, then over the blocks of rows.
//
// Slices that do not lie in eights or have more than `most` columns are read again, element by element, by the lanes of a whole warp.
#include "sigmoid_cuda.h"
#include "sums_cuda.h"

static constexpr int eights = 2, threads = 256, most = threads * 8 * eights, block_rows = 64;

// Which part of a slice is this thread's: column 8 * (lane + k * lanes) and the seven after it.
struct Part {
  int slice, lanes, lane, number, numbers;  // number: which slice of those that the block has at a time
  bool whole;                               // in registers
  int turn = 0;

  __device__ Part(int64_t slice, bool in_eights) : slice((int)slice), lanes(32), whole(in_eights && slice % 8 == 0 && slice <= most) {
    if (whole)
      for (lanes = 1; lanes * 8 * eights < slice;) lanes *= 2;
    lane = threadIdx.x % lanes, number = threadIdx.x / lanes, numbers = threads / lanes;
  }
  __device__ int column(int k) const { return 8 * (lane + k * lanes); }
  // By all lanes that have the slice, and for slices within a warp by all of the warp.
  __device__ float sum(float x) {
    __shared__ float of_warps[2][threads / 32];
    for (int distance = (lanes < 32 ? lanes : 32) / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    if (lanes <= 32) return x;
    turn ^= 1;
    if (threadIdx.x % 32 == 0) of_warps[turn][threadIdx.x / 32] = x;
    asm volatile("bar.sync %0, %1;" ::"r"(number + 1), "r"(lanes) : "memory");
    x = 0;
    for (int w = 0; w < lanes / 32; w++) x += of_warps[turn][number * (lanes / 32) + w];
    return x;
  }
  template <class T> __device__ void load_from(const T* from, Packed<T> (&to)[eights]) const {
#pragma unroll
    for (int k = 0; k < eights; k++)
      if (column(k) < slice) to[k].load_from(from + column(k));
  }
  // body(k, column) for the columns of this thread; k is known when this is compiled.
  template <class Body> __device__ void each(const Body& body) const {
#pragma unroll
    for (int k = 0; k < eights; k++)
      if (column(k) < slice) body(k, column(k));
  }
  // body(c) for the columns of this lane, of a slice that is not in registers.
  template <class Body> __device__ void each_single(const Body& body) const {
    for (int c = lane; c < slice; c += lanes) body(c);
  }
};

template <class Act> __device__ void gated_norm_slices(const gated_norm_args<Act>& a, void*) {
  Part part(a.cols / a.groups, a.cols % 8 == 0 && a.width % 8 == 0 && in_sixteens(a.y, a.projection, a.out, a.w));
  const int64_t at = blockIdx.y * (int64_t)part.slice;
  const float* const w = a.w + at;
  // All lanes of a warp take part in its sums; those after the last row write nothing.
  for (int64_t first = blockIdx.x * (int64_t)part.numbers; first < a.rows; first += gridDim.x * (int64_t)part.numbers) {
    const bool inside = first + part.number < a.rows;
    const int64_t r = inside ? first + part.number : a.rows - 1;
    const Act *const y = a.y + r * a.cols + at, *const z = a.projection + r * a.width + at;
    Act* const out = a.out + r * a.cols + at;
    const auto inverse_of = [&](float squares) {
      const float inverse = 1.0f / sqrtf(part.sum(squares) / (float)part.slice + a.eps);
      if (inside && part.lane == 0) a.inverse[r * a.groups + blockIdx.y] = inverse;
      return inverse;
    };
    float sum = 0;
    if (part.whole) {
      Packed<Act> ys[eights], zs[eights];
      part.load_from(y, ys);
      part.load_from(z, zs);
      Eight v[eights];
      part.each([&](int k, int) {
        v[k] = map_eight([](float value, float gate) { return value * gate * sigmoid(gate); }, ys[k].get(), zs[k].get());
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(v[k].v[i], v[k].v[i], sum);
      });
      const float inverse = inverse_of(sum);
      if (inside) part.each([&](int k, int c) {
        store_eight(out + c, map_eight([&](float value, float weight) { return value * inverse * weight; }, v[k], load_eight(w + c)));
      });
    } else {
      const auto gated = [&](int c) { return load(y + c) * load(z + c) * sigmoid(load(z + c)); };
      part.each_single([&](int c) { sum = fmaf(gated(c), gated(c), sum); });
      const float inverse = inverse_of(sum);
      if (inside) part.each_single([&](int c) { store(out + c, gated(c) * inverse * w[c]); });
    }
  }
}
EXPORT_CUDA_ACT_ENTRY(gated_norm, slices, 256)

// The gradients of one element whose v is value * silu(gate), by dv = inverse * (dout * w - n * mean) with mean that of the slice's dout * w * n.
struct Gradients {
  float dy, dz;
  __device__ Gradients(float dout_w, float value, float gate, float s, float v, float inverse, float mean) {
    const float dv = fmaf(v, -inverse * inverse * mean, dout_w * inverse);
    dy = dv * (gate * s);
    dz = dv * fmaf(v, 1.0f - s, value * s);
  }
};

// A block has one slice of `block_rows` rows. The workspace holds, per block of rows, a row of dw.
template <class Act> __device__ void gated_norm_backward_slices(const gated_norm_backward_args<Act>& a, void* workspace) {
  __shared__ __align__(16) float sums[most];
  Part part(a.cols / a.groups, a.cols % 8 == 0 && a.width % 8 == 0 && in_sixteens(a.y, a.projection, a.dout, a.w) && in_sixteens(a.dy, a.dprojection));
  const int64_t at = blockIdx.y * (int64_t)part.slice, begin = blockIdx.x * (int64_t)block_rows;
  const int64_t end = begin + block_rows < a.rows ? begin + block_rows : a.rows;
  const float* const w = a.w + at;
  float* const dw = static_cast<float*>(workspace) + blockIdx.x * a.cols + at;
  if (!part.whole) {
    // Before the gradients, which may replace what this reads.
    for (int c = threadIdx.x; c < part.slice; c += threads) {
      float sum = 0;
      for (int64_t r = begin; r < end; r++) {
        const float gate = load(a.projection + r * a.width + at + c), inverse = a.inverse[r * a.groups + blockIdx.y];
        sum = fmaf(load(a.dout + r * a.cols + at + c), load(a.y + r * a.cols + at + c) * gate * sigmoid(gate) * inverse, sum);
      }
      dw[c] = sum;
    }
    __syncthreads();
  }
  Eight own[eights] = {};
  for (int64_t first = begin; first < end; first += part.numbers) {
    const bool inside = first + part.number < end;
    const int64_t r = inside ? first + part.number : end - 1;
    const Act *const y = a.y + r * a.cols + at, *const z = a.projection + r * a.width + at, *const dout = a.dout + r * a.cols + at;
    Act *const dy = a.dy + r * a.cols + at, *const dz = a.dprojection + r * a.width + at;
    const float inverse = a.inverse[r * a.groups + blockIdx.y];
    float dot = 0;
    if (part.whole) {
      Packed<Act> ys[eights], zs[eights], douts[eights];
      part.load_from(y, ys);
      part.load_from(z, zs);
      part.load_from(dout, douts);
      Eight s[eights];
      part.each([&](int k, int c) {
        const Eight value = ys[k].get(), gate = zs[k].get(), g = douts[k].get(), weight = load_eight(w + c);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          s[k].v[i] = sigmoid(gate.v[i]);
          const float dout_v = g.v[i] * (value.v[i] * (gate.v[i] * s[k].v[i]));
          dot = fmaf(dout_v, weight.v[i], dot);
          if (inside) own[k].v[i] = fmaf(dout_v, inverse, own[k].v[i]);
        }
      });
      const float mean = part.sum(dot) * inverse / (float)part.slice;
      if (inside) part.each([&](int k, int c) {
        const Eight value = ys[k].get(), gate = zs[k].get(), g = douts[k].get(), weight = load_eight(w + c);
        Eight to_y{}, to_z;
        if (a.accumulate) to_y = load_eight((const Act*)dy + c);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float v = value.v[i] * (gate.v[i] * s[k].v[i]);
          const Gradients d(g.v[i] * weight.v[i], value.v[i], gate.v[i], s[k].v[i], v, inverse, mean);
          to_y.v[i] += d.dy, to_z.v[i] = d.dz;
        }
        store_eight(dz + c, to_z);
        store_eight(dy + c, to_y);
      });
    } else {
      part.each_single([&](int c) { dot = fmaf(load(dout + c) * w[c], load(y + c) * load(z + c) * sigmoid(load(z + c)), dot); });
      const float mean = part.sum(dot) * inverse / (float)part.slice;
      if (inside) part.each_single([&](int c) {
        const float value = load(y + c), gate = load(z + c), s = sigmoid(gate);
        const Gradients d(load(dout + c) * w[c], value, gate, s, value * gate * s, inverse, mean);
        store(dz + c, d.dz);
        store(dy + c, a.accumulate ? load(dy + c) + d.dy : d.dy);
      });
    }
  }
  if (!part.whole) return;
  part.each([&](int k, int c) { store_eight(sums + part.number * part.slice + c, own[k]); });
  __syncthreads();
  for (int c = threadIdx.x; c < part.slice; c += threads) {
    float sum = sums[c];
    for (int number = 1; number < part.numbers; number++) sum += sums[number * part.slice + c];
    dw[c] = sum;
  }
}
EXPORT_CUDA_ACT_ENTRY(gated_norm_backward, slices, 256, 2)

template <class Act> __device__ void gated_norm_backward_dw(const gated_norm_backward_args<Act>& a, void* workspace) {
  each_column_sum(static_cast<const float*>(workspace), (a.rows + block_rows - 1) / block_rows, a.cols,
                  [&](int64_t c, float sum) { a.dw[c] += sum; });
}
EXPORT_CUDA_ACT_ENTRY(gated_norm_backward, dw, 256)
