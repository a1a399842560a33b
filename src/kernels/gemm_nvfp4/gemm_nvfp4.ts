import { e4m3 } from '../../formats/minifloat.ts'
import { swizzledSize } from '../../formats/swizzle.ts'
import { type Dims, defineKernel, f32, i32, inout, input, optional } from '../../tensor/kernel.ts'
import { decodeE2m1 } from '../gemm/decode.ts'
import { cover, expandedProduct } from '../gemm/gemm.cuda.ts'
import { packedOf } from '../pack/pack.ts'

const { fround } = Math

/**
 * The product of two NVFP4 images, c[m,n] (+)= sum_k a[m,k] * b[n,k] (docs/numerics.md, "GEMM semantics"):
 *
 *   dot_i  = sum over the 16 elements of block i of value(a) * value(b)             exact: an integer over 4
 *   acc    = sum over blocks i, in order, of (a_scale_i * b_scale_i) * dot_i        each term exact in FP32, each addition rounded
 *   alpha  = fp32(fp32(a_amax * b_amax) / fp32(a_bound * b_bound))
 *   c      = fp32(alpha * acc), plus c if `accumulate`, rounded to the dtype of c
 *
 * Only the sum over blocks rounds and its order is fixed, so the result is the same to the bit on every CPU level, for every tiling
 * and number of threads. Codes are packed two to a byte, the even element in the low nibble; scales are E4M3.
 *
 * An amax is [amax, flag] of the tensor; with `a_per_row` (`b_per_row`) 1 it is one amax per row of the operand. A bound is the largest
 * element times the largest block scale: 2688, or 1536 under four-over-six. `b_packed` is what pack.ts makes of b, where a caller has it: to be read
 * instead of the codes or not, with the same result.
 */
export const gemmNvfp4 = defineKernel({
  name: 'gemm_nvfp4',
  args: {
    c: inout('float', 'm', 'n'),
    a_codes: input('u8', 'm', '8*blocks'),
    a_scales: input('u8', 'm', 'blocks'),
    a_amax: input('f32', 'a_amaxes'),
    b_codes: input('u8', 'n', '8*blocks'),
    b_scales: input('u8', 'n', 'blocks'),
    b_amax: input('f32', 'b_amaxes'),
    b_packed: optional(input('u8', 'panels', 'blocks', 'columns', 20)),
    a_bound: f32,
    b_bound: f32,
    a_per_row: i32,
    b_per_row: i32,
    accumulate: i32,
  },
  reference(values, dims) {
    const { c, a_codes, a_scales, a_amax, b_codes, b_scales, b_amax, a_bound, b_bound, accumulate } = values
    const { m, n, blocks } = dims as { m: number; n: number; blocks: number }
    const bound = fround(a_bound * b_bound)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let acc = 0
        for (let block = 0; block < blocks; block++) {
          let dot = 0
          for (let l = 0; l < 16; l++)
            dot +=
              decodeE2m1(a_codes, (i * blocks + block) * 16 + l) * decodeE2m1(b_codes, (j * blocks + block) * 16 + l)
          const scale = e4m3.values[a_scales[i * blocks + block]!]! * e4m3.values[b_scales[j * blocks + block]!]!
          acc = fround(acc + scale * dot)
        }
        const amaxes = fround(a_amax[values.a_per_row ? i : 0]! * b_amax[values.b_per_row ? j : 0]!)
        const y = fround(fround(amaxes / bound) * acc)
        c[i * n + j] = accumulate ? fround(c[i * n + j]! + y) : y
      }
  },
  cases: [
    ...(
      [
        [1, 1, 1],
        [1, 40, 3],
        [5, 33, 2],
        [16, 16, 4],
        [33, 65, 6],
        [70, 130, 9],
        [8, 256, 65],
        [129, 7, 40],
      ] as const
    ).map(([m, n, blocks], i) => ({
      dims: { m, n, blocks, a_amaxes: i === 4 || i === 5 ? m : 2, b_amaxes: i === 5 ? n : 2 },
      scalars: {
        a_bound: i === 3 ? 1536 : 2688,
        b_bound: 2688,
        a_per_row: i === 4 || i === 5 ? 1 : 0,
        b_per_row: i === 5 ? 1 : 0,
        accumulate: i % 2,
      },
      inputs,
    })),
    ...(
      [
        [1, 40, 3, 32],
        [33, 65, 6, 32],
        [70, 130, 70, 32],
        [70, 130, 9, 8],
      ] as const
    ).map(([m, n, blocks, columns], i) => ({
      name: `packed by ${columns}: ${m} x ${n} x ${blocks}`,
      dims: { m, n, blocks, columns, panels: Math.ceil(n / columns), a_amaxes: 2, b_amaxes: 2 },
      scalars: { a_bound: 2688, b_bound: 2688, a_per_row: 0, b_per_row: 0, accumulate: i % 2 },
      with: ['b_packed' as const],
      inputs: packedInputs,
    })),
    {
      dims: { m: 2048, n: 1024, blocks: 64, a_amaxes: 2, b_amaxes: 2 },
      scalars: { a_bound: 2688, b_bound: 2688, a_per_row: 0, b_per_row: 0, accumulate: 0 },
      inputs,
      bench: true,
      flops: 2 * 2048 * 1024 * 1024,
    },
  ],
  tolerance: 0,
  flops: ({ m, n, blocks }) => 2 * m! * n! * 16 * blocks!,
  cuda: expandedProduct({
    dtype: 'bf16',
    k: ({ blocks }) => 16 * blocks!,
    factor: true,
    native: {
      dtype: 'e2m1',
      factor: true,
      layouts: (_, { a_per_row, b_per_row }) => (a_per_row || b_per_row ? undefined : { a: 'rows16', b: 'rows16' }),
      scales: () => ({}),
      arrange: ({ m, n, blocks }) => [
        { entry: 'arrange_a', ...cover(swizzledSize(m!, blocks!), 1) },
        { entry: 'arrange_b', ...cover(swizzledSize(n!, blocks!), 1) },
      ],
    },
  }),
})

/** Every finite scale, amaxes as of real tensors. */
function inputs({ m, n, blocks, a_amaxes, b_amaxes }: Dims) {
  return {
    a_scales: Uint8Array.from({ length: m! * blocks! }, (_, i) => (i * 37) % 0x7f),
    b_scales: Uint8Array.from({ length: n! * blocks! }, (_, i) => (i * 53 + 11) % 0x7f),
    a_amax: Float32Array.from({ length: a_amaxes! }, (_, i) => 3.3 + i / 7),
    b_amax: Float32Array.from({ length: b_amaxes! }, (_, i) => 0.21 + i / 9),
  }
}

function packedInputs(dims: Dims) {
  const given = inputs(dims)
  const b_codes = Uint8Array.from({ length: dims.n! * dims.blocks! * 8 }, (_, i) => i * 89 + (i >> 3))
  return { ...given, b_codes, b_packed: packedOf('nvfp4', b_codes, given.b_scales, dims) }
}
