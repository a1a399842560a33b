import { e4m3 } from '../../formats/minifloat.ts'
import { decodeUe8m0 } from '../../formats/ue8m0.ts'
import { type Case, type Dims, defineKernel, i32, inout, input, type Kernel, optional } from '../../tensor/kernel.ts'
import { decodeE2m1 } from '../gemm/decode.ts'
import { expandedProduct } from '../gemm/gemm.cuda.ts'
import { packedOf } from '../pack/pack.ts'

const { fround } = Math

/** Bytes of 32 codes, and the value of one of them. */
interface Element {
  readonly bytes: 16 | 32
  value(codes: Uint8Array, index: number): number
}

/**
 * Products of two MXFP4 (E2M1) or MXFP8 (E4M3) images, c[m,n] (+)= sum_k a[m,k] * b[n,k]: blocks of 32 with UE8M0 scales and no tensor
 * scale (docs/numerics.md, "MXFP4 / MXFP8"):
 *
 *   dot_i = sum over the 32 elements of block i of value(a) * value(b)
 *   c     = sum over blocks i, in order, of fp32(a_scale_i * fp32(b_scale_i * dot_i)), plus c if `accumulate`
 *
 * MXFP4: dot_i is an integer over 4 and scales are powers of two, so only the sum over blocks rounds, and the result is the same to the bit on
 * every CPU level as long as no term leaves the range of FP32. MXFP8: dot_i is an FP32 sum.
 */
const product = (name: string, element: Element, tolerance: number) =>
  defineKernel({
    name,
    args: {
      c: inout('float', 'm', 'n'),
      a_codes: input('u8', 'm', `${element.bytes}*blocks`),
      a_scales: input('u8', 'm', 'blocks'),
      b_codes: input('u8', 'n', `${element.bytes}*blocks`),
      b_scales: input('u8', 'n', 'blocks'),
      accumulate: i32,
    },
    reference({ c, a_codes, a_scales, b_codes, b_scales, accumulate }, dims) {
      const { m, n, blocks } = dims as { m: number; n: number; blocks: number }
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let acc = 0
          for (let block = 0; block < blocks; block++) {
            let dot = 0
            for (let l = 0; l < 32; l++)
              dot +=
                element.value(a_codes, (i * blocks + block) * 32 + l) *
                element.value(b_codes, (j * blocks + block) * 32 + l)
            const scaled = fround(decodeUe8m0(b_scales[j * blocks + block]!) * dot)
            acc = fround(acc + fround(decodeUe8m0(a_scales[i * blocks + block]!) * scaled))
          }
          c[i * n + j] = accumulate ? fround(c[i * n + j]! + acc) : acc
        }
    },
    cases: [
      ...(
        [
          [1, 1, 1],
          [3, 40, 2],
          [33, 65, 3],
          [70, 130, 5],
          [8, 256, 33],
        ] as const
      ).map(([m, n, blocks], i) => ({
        dims: { m, n, blocks },
        scalars: { accumulate: i % 2 },
        inputs: (dims: Dims) => inputs(dims, element.bytes),
      })),
      {
        dims: { m: 2048, n: 1024, blocks: 32 },
        scalars: { accumulate: 0 },
        inputs: (dims: Dims) => inputs(dims, element.bytes),
        bench: true,
        flops: 2 * 2048 * 1024 * 1024,
      },
    ],
    tolerance,
    flops: ({ m, n, blocks }) => 2 * m! * n! * 32 * blocks!,
    cuda: expandedProduct({ dtype: 'bf16', k: ({ blocks }) => 32 * blocks!, factor: false }),
  })

/** Scales as of real tensors, and no code that is NaN in E4M3. */
function inputs({ m, n, blocks }: Dims, bytes: number) {
  const finite = (bits: number) => ((bits & 0x7f) === 0x7f ? bits - 1 : bits)
  return {
    a_scales: Uint8Array.from({ length: m! * blocks! }, (_, i) => 118 + ((i * 7) % 19)),
    b_scales: Uint8Array.from({ length: n! * blocks! }, (_, i) => 115 + ((i * 5) % 17)),
    a_codes: Uint8Array.from({ length: m! * blocks! * bytes }, (_, i) => finite((i * 151 + (i >> 4)) & 0xff)),
    b_codes: Uint8Array.from({ length: n! * blocks! * bytes }, (_, i) => finite((i * 89 + (i >> 3)) & 0xff)),
  }
}

const plainMxfp4 = product('gemm_mxfp4', { bytes: 16, value: decodeE2m1 }, 0)

const mxfp4Args = { ...plainMxfp4.args, b_packed: optional(input('u8', 'panels', 'blocks', 'columns', 36)) } as const

const packedCases: readonly Case<typeof mxfp4Args>[] = (
  [
    [1, 40, 3, 32],
    [70, 130, 37, 32],
    [33, 65, 5, 8],
  ] as const
).map(([m, n, blocks, columns], i) => ({
  name: `packed by ${columns}: ${m} x ${n} x ${blocks}`,
  dims: { m, n, blocks, columns, panels: Math.ceil(n / columns) },
  scalars: { accumulate: i % 2 },
  with: ['b_packed'],
  inputs: dims => {
    const given = inputs(dims, 16)
    return { ...given, b_packed: packedOf('mxfp4', given.b_codes, given.b_scales, dims) }
  },
}))

/** `b_packed` is what pack.ts makes of b, where a caller has it: to be read instead of the codes or not, with the same result. */
export const gemmMxfp4 = {
  ...plainMxfp4,
  args: mxfp4Args,
  cases: [...plainMxfp4.cases, ...packedCases],
} as Kernel<typeof mxfp4Args>
export const gemmMxfp8 = product(
  'gemm_mxfp8',
  { bytes: 32, value: (codes, index) => e4m3.values[codes[index]!]! },
  2e-6,
)
