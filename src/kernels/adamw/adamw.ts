import { defineKernel, f32, inout, input, optional } from '../../tensor/kernel.ts'

const r = Math.fround

/** What happens to the elements 16 i .. 16 i + 15: bits of flags[i]. */
export const adamwFlags = { decays: 1, cleared: 2 }
/** In place of a place: 16 elements without a copy. */
export const uncopied = 0xffffffff

const withControl =
  (rate: number, t: number, factor: number, finite: number) =>
  ({ n }: Record<string, number>) => ({
    control: Float32Array.of(rate, 1 - 0.9 ** t, 1 - 0.95 ** t, factor, 1, finite, 0, 0),
    v: Float32Array.from({ length: n! }, (_, i) => (i % 5) * 1e-3),
    // Neighbours that share both flags, one of them, or none.
    flags: Uint8Array.from({ length: n! / 16 }, (_, i) => [1, 3, 2, 0, 0, 3, 1, 2][i % 8]!),
  })
const scalars = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }

/**
 * AdamW (Loshchilov and Hutter 2019) over all parameters at once, with t counted from 1 and `control` from optimizer_control.ts:
 *
 *   g' = clip factor * g          m = beta1 m + (1 - beta1) g'          v = beta2 v + (1 - beta2) g'^2
 *   w -= learning rate * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * w)
 *
 * Weight decay is left out where flags[i / 16] lacks `decays`; where it has `cleared`, g is set to zero in the same pass. Where `places`
 * is given, elements 16 p .. 16 p + 15 of `rounded` receive the BF16 rounding of 16 weights, p being places[i / 16] if not `uncopied`. Nothing at all
 * happens where control says that gradients are not finite. FP32, rounded after every operation: the result is the same to the bit everywhere.
 */
export const adamw = defineKernel({
  name: 'adamw',
  args: {
    w: inout('f32', 'n'),
    m: inout('f32', 'n'),
    v: inout('f32', 'n'),
    g: inout('f32', 'n'),
    flags: input('u8', 'n/16'),
    rounded: optional(inout('bf16', 'copied')),
    places: optional(input('u32', 'n/16')),
    control: input('f32', 8),
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
  },
  reference({ w, m, v, g, flags, rounded, places, control, beta1, beta2, eps, weight_decay }, { n }) {
    if (control[5] === 0) return
    const rate = control[0]!
    const inverse1 = r(1 / control[1]!)
    const inverse2 = r(1 / control[2]!)
    const b1 = r(beta1)
    const b2 = r(beta2)
    for (let i = 0; i < n!; i++) {
      const x = r(g[i]! * control[3]!)
      m[i] = r(b1 * m[i]!) + r(r(1 - b1) * x)
      v[i] = r(b2 * v[i]!) + r(r(r(1 - b2) * x) * x)
      const step = r(r(m[i]! * inverse1) / r(r(Math.sqrt(r(v[i]! * inverse2))) + r(eps)))
      const shrink = flags[i >> 4]! & adamwFlags.decays ? r(r(weight_decay) * w[i]!) : 0
      w[i] = w[i]! - r(rate * r(step + shrink))
      if (flags[i >> 4]! & adamwFlags.cleared) g[i] = 0
      if (places && places[i >> 4] !== uncopied) rounded![16 * places[i >> 4]! + (i & 15)] = w[i]!
    }
  },
  cases: [
    { dims: { n: 16 }, scalars, inputs: withControl(1e-3, 1, 1, 1) },
    { dims: { n: 16 * 1301 }, scalars, inputs: withControl(1e-3, 10, 0.25, 1) },
    {
      name: 'copies of some weights, in another order',
      dims: { n: 16 * 1301, copied: 16 * 650 },
      scalars,
      with: ['rounded', 'places'],
      inputs: dims => ({
        ...withControl(1e-3, 10, 0.25, 1)(dims),
        places: Uint32Array.from({ length: 1301 }, (_, i) => (i % 2 ? 649 - (i - 1) / 2 : uncopied)),
      }),
    },
    { name: 'not finite', dims: { n: 48 }, scalars, inputs: withControl(1e-3, 1, 1, 0) },
    { dims: { n: 2 ** 22 }, scalars, inputs: withControl(1e-3, 10, 0.25, 1), bench: true },
  ],
  tolerance: 0,
  // Four elements a thread: 7 % faster than blocks that go round.
  cuda: { launches: ({ n }) => [{ grid: Math.ceil(n! / 1024), block: 256 }] },
})
