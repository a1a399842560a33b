import { defineKernel, f32, i32, inout, input, output } from '../../tensor/kernel.ts'

/**
 * The gated normalisation at the end of a Mamba-2 block (docs/numerics.md, "Block maths"): gate first, then a root-mean-square
 * norm over each of `groups` slices of cols/groups columns. z is columns 0 .. cols-1 of `projection`.
 *
 *   v[r,c] = y[r,c] * silu(z[r,c])          inverse[r,g] = 1 / sqrt(mean_{c in g} v[r,c]^2 + eps)
 *   out[r,c] = v[r,c] * inverse[r,g] * w[c]
 *
 * `inverse` is kept for the backward pass. FP32 throughout; only `out` is rounded to its dtype.
 */
export const gatedNorm = defineKernel({
  name: 'gated_norm',
  args: {
    out: output('act', 'rows', 'cols'),
    inverse: output('f32', 'rows', 'groups'),
    y: input('act', 'rows', 'cols'),
    projection: input('act', 'rows', 'width'),
    w: input('f32', 'cols'),
    eps: f32,
  },
  reference({ out, inverse, y, projection, w, eps }, { rows, cols, groups, width }) {
    const slice = cols! / groups!
    for (let r = 0; r < rows!; r++)
      for (let g = 0; g < groups!; g++) {
        const gated = (c: number) => y[r * cols! + c]! * silu(projection[r * width! + c]!)
        let sum = 0
        for (let c = g * slice; c < (g + 1) * slice; c++) sum += gated(c) ** 2
        const scale = 1 / Math.sqrt(sum / slice + eps)
        inverse[r * groups! + g] = scale
        for (let c = g * slice; c < (g + 1) * slice; c++) out[r * cols! + c] = gated(c) * scale * w[c]!
      }
  },
  cases: [
    { dims: { rows: 1, cols: 16, groups: 1, width: 40 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 7, cols: 80, groups: 2, width: 211 }, scalars: { eps: 0.1 } },
    { dims: { rows: 37, cols: 93, groups: 3, width: 93 }, scalars: { eps: 1e-5 } },
    {
      name: 'gates far from zero',
      dims: { rows: 3, cols: 64, groups: 2, width: 70 },
      scalars: { eps: 1e-5 },
      inputs: () => ({ projection: Float32Array.from({ length: 210 }, (_, i) => (i % 9) * 24 - 96) }),
    },
    { dims: { rows: 21, cols: 768, groups: 2, width: 784 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 9, cols: 1280, groups: 1, width: 1288 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 3, cols: 4104, groups: 1, width: 4104 }, scalars: { eps: 1e-5 } },
    { dims: { rows: 2048, cols: 512, groups: 2, width: 1288 }, scalars: { eps: 1e-5 }, bench: true },
  ],
  tolerance: 2e-6,
  cuda: {
    launches: ({ rows, cols, groups }) => {
      // As many lanes have a slice as `Part` of gated_norm.cu gives it, where it is in registers.
      const lanes = Math.min(256, 2 ** Math.max(0, Math.ceil(Math.log2(cols! / groups! / 16))))
      return [{ entry: 'slices', grid: [Math.ceil((rows! * lanes) / 256), groups!], block: 256 }]
    },
  },
})

/**
 * With s = sigmoid(z), n = v * inverse and t = dout * w, over the slice of each column:
 *
 *   dv = inverse * (t - n * mean_slice(t * n))        dy (+)= dv * silu(z)        dz = dv * y * s * (1 + z * (1 - s))
 *   dw[c] += sum_r dout[r,c] * n[r,c]
 *
 * dz overwrites columns 0 .. cols-1 of `dprojection` and no others: the ops that read slices of a projection each overwrite the
 * gradient of their own slice. `accumulate` 1 adds to dy, 0 overwrites it. dw is always added to, rows in order within fixed groups.
 */
export const gatedNormBackward = defineKernel({
  name: 'gated_norm_backward',
  args: {
    dy: inout('act', 'rows', 'cols'),
    dprojection: inout('act', 'rows', 'width'),
    dw: inout('f32', 'cols'),
    dout: input('act', 'rows', 'cols'),
    y: input('act', 'rows', 'cols'),
    projection: input('act', 'rows', 'width'),
    w: input('f32', 'cols'),
    inverse: input('f32', 'rows', 'groups'),
    accumulate: i32,
  },
  reference({ dy, dprojection, dw, dout, y, projection, w, inverse, accumulate }, { rows, cols, groups, width }) {
    const slice = cols! / groups!
    const dwSum = new Float64Array(cols!)
    for (let r = 0; r < rows!; r++)
      for (let g = 0; g < groups!; g++) {
        const scale = inverse[r * groups! + g]!
        const normalised = (c: number) => y[r * cols! + c]! * silu(projection[r * width! + c]!) * scale
        let dot = 0
        for (let c = g * slice; c < (g + 1) * slice; c++) dot += dout[r * cols! + c]! * w[c]! * normalised(c)
        for (let c = g * slice; c < (g + 1) * slice; c++) {
          const i = r * cols! + c
          const z = projection[r * width! + c]!
          const s = 1 / (1 + Math.exp(-z))
          const dv = scale * (dout[i]! * w[c]! - (normalised(c) * dot) / slice)
          dy[i] = dv * silu(z) + (accumulate ? dy[i]! : 0)
          dprojection[r * width! + c] = dv * y[i]! * s * (1 + z * (1 - s))
          dwSum[c]! += dout[i]! * normalised(c)
        }
      }
    for (let c = 0; c < cols!; c++) dw[c]! += dwSum[c]!
  },
  cases: [
    { dims: { rows: 1, cols: 16, groups: 1, width: 40 }, scalars: { accumulate: 0 } },
    { dims: { rows: 7, cols: 80, groups: 2, width: 211 }, scalars: { accumulate: 1 } },
    { dims: { rows: 101, cols: 93, groups: 3, width: 93 }, scalars: { accumulate: 0 } },
    {
      name: 'gates far from zero',
      dims: { rows: 3, cols: 64, groups: 2, width: 70 },
      scalars: { accumulate: 0 },
      inputs: () => ({ projection: Float32Array.from({ length: 210 }, (_, i) => (i % 9) * 24 - 96) }),
    },
    { dims: { rows: 70, cols: 768, groups: 2, width: 784 }, scalars: { accumulate: 1 } },
    { dims: { rows: 9, cols: 1280, groups: 1, width: 1288 }, scalars: { accumulate: 0 } },
    { dims: { rows: 3, cols: 4104, groups: 1, width: 4104 }, scalars: { accumulate: 0 } },
    { dims: { rows: 2048, cols: 512, groups: 2, width: 1288 }, scalars: { accumulate: 0 }, bench: true },
  ],
  tolerance: 2e-6,
  cuda: {
    workspace: ({ rows, cols }) => 4 * Math.ceil(rows! / 64) * cols!,
    launches: ({ rows, cols, groups }) => [
      { entry: 'slices', grid: [Math.ceil(rows! / 64), groups!], block: 256 },
      { entry: 'dw', grid: Math.ceil(cols! / 32), block: 256 },
    ],
  },
})

const silu = (z: number): number => z / (1 + Math.exp(-z))
