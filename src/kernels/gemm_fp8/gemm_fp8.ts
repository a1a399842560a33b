import { e4m3 } from '../../formats/minifloat.ts'
import { type Dims, defineKernel, i32, inout, input } from '../../tensor/kernel.ts'
import { cover, expandedProduct } from '../gemm/gemm.cuda.ts'

const { fround } = Math

/** Tensor cores of Hopper keep about 13 bits below the largest product of a group while they add FP8. */
const nativeTolerance = 1e-3

/** How the scales of each operand lie, and how many blocks of 128 a row has. */
function scalesOf({ m, n, k, a_scale_lines, a_scale_width, b_scale_lines, b_scale_width }: Dims) {
  const blocks = Math.ceil(k! / 128)
  const layout = (rows: number, lines: number, width: number) =>
    width === rows && lines === blocks ? ('rows128' as const) : ('tiles128' as const)
  return { blocks, a: layout(m!, a_scale_lines!, a_scale_width!), b: layout(n!, b_scale_lines!, b_scale_width!) }
}

/**
 * The product of two E4M3 images with FP32 decode scales, c[m,n] (+)= sum_k a[m,k] * b[n,k] (docs/numerics.md, "FP8 baseline"):
 *
 *   partial_i = FP32 sum over the (up to) 128 elements of block i of value(a) * value(b)
 *   c         = sum over blocks i, in order, of fp32(a_scale_i * b_scale_i) * partial_i, plus c if `accumulate`
 *
 * An operand's scales are [ceil(k/128), rows] for blocks of 1x128 or [ceil(rows/128), ceil(k/128)] for tiles of 128x128; which, their
 * shape tells.
 */
export const gemmFp8 = defineKernel({
  name: 'gemm_fp8',
  args: {
    c: inout('float', 'm', 'n'),
    a_codes: input('u8', 'm', 'k'),
    a_scales: input('f32', 'a_scale_lines', 'a_scale_width'),
    b_codes: input('u8', 'n', 'k'),
    b_scales: input('f32', 'b_scale_lines', 'b_scale_width'),
    accumulate: i32,
  },
  reference({ c, a_codes, a_scales, b_codes, b_scales, accumulate }, dims) {
    const { m, n, k } = dims as { m: number; n: number; k: number }
    const { blocks, a, b } = scalesOf(dims)
    const scaleOf = (scales: Float32Array, layout: string, rows: number, row: number, block: number): number =>
      scales[layout === 'rows128' ? block * rows + row : Math.floor(row / 128) * blocks + block]!
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let acc = 0
        for (let block = 0; block < blocks; block++) {
          let partial = 0
          for (let l = block * 128; l < Math.min(k, block * 128 + 128); l++)
            partial += e4m3.values[a_codes[i * k + l]!]! * e4m3.values[b_codes[j * k + l]!]!
          const scaleA = scaleOf(a_scales, a, m, i, block)
          const scaleB = scaleOf(b_scales, b, n, j, block)
          acc += fround(scaleA * scaleB) * partial
        }
        c[i * n + j] = accumulate ? c[i * n + j]! + acc : acc
      }
  },
  cases: [
    ...(
      [
        [1, 1, 1, false, false],
        [3, 40, 130, false, false],
        [33, 130, 256, false, true],
        [150, 70, 300, true, false],
        [130, 140, 128, true, true],
        [144, 272, 384, false, true],
        [144, 272, 512, false, true],
        [160, 128, 256, true, false],
        [32, 144, 640, false, false],
        [5, 140, 1100, false, true],
      ] as const
    ).map(([m, n, k, squareA, squareB], i) => ({
      dims: dimsOf(m, n, k, squareA, squareB),
      scalars: { accumulate: i % 2 },
      inputs,
    })),
    {
      dims: dimsOf(1024, 1024, 1024, false, true),
      scalars: { accumulate: 0 },
      inputs,
      bench: true,
      flops: 2 * 1024 ** 3,
    },
  ],
  tolerance: 2e-6,
  flops: ({ m, n, k }) => 2 * m! * n! * k!,
  cuda: expandedProduct({
    dtype: 'f32',
    k: ({ k }) => k!,
    factor: false,
    native: {
      dtype: 'e4m3',
      layouts(dims) {
        const { a, b } = scalesOf(dims)
        return dims.k! % 128 === 0 && (a === 'rows128' || b === 'rows128') ? { a, b } : undefined
      },
      // Those of tiles lie as they should if their rows do not end with padding.
      scales(dims) {
        const { blocks, a, b } = scalesOf(dims)
        const whole = blocks % 4 === 0
        return {
          ...(whole || a === 'rows128' ? { a: 'a_scales' } : {}),
          ...(whole || b === 'rows128' ? { b: 'b_scales' } : {}),
        }
      },
      arrange(dims) {
        const { blocks, a, b } = scalesOf(dims)
        const pad = (entry: string, layout: string, lines: number) =>
          layout === 'tiles128' && blocks % 4 !== 0 ? [{ entry, ...cover(lines * (blocks + 3), 1) }] : []
        return [...pad('pad_a', a, dims.a_scale_lines!), ...pad('pad_b', b, dims.b_scale_lines!)]
      },
    },
    tolerance: nativeTolerance,
  }),
})

function dimsOf(m: number, n: number, k: number, squareA: boolean, squareB: boolean): Dims {
  const blocks = Math.ceil(k / 128)
  const [a_scale_lines, a_scale_width] = squareA ? [Math.ceil(m / 128), blocks] : [blocks, m]
  const [b_scale_lines, b_scale_width] = squareB ? [Math.ceil(n / 128), blocks] : [blocks, n]
  return { m, n, k, a_scale_lines, a_scale_width, b_scale_lines, b_scale_width }
}

function finiteCodes(length: number, factor: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => {
    const bits = (i * factor + (i >> 4)) & 0xff
    return (bits & 0x7f) === 0x7f ? bits - 1 : bits
  })
}

function inputs({ m, n, k, a_scale_lines, a_scale_width, b_scale_lines, b_scale_width }: Dims) {
  return {
    a_codes: finiteCodes(m! * k!, 151),
    b_codes: finiteCodes(n! * k!, 89),
    a_scales: Float32Array.from({ length: a_scale_lines! * a_scale_width! }, (_, i) => 0.01 + (i % 13) / 170),
    b_scales: Float32Array.from({ length: b_scale_lines! * b_scale_width! }, (_, i) => 0.003 + (i % 7) / 90),
  }
}

/**
 * The product of two E4M3 images with one FP32 decode scale each:
 *
 *   c[m,n] (+)= fp32(a_scale * b_scale) * sum_k a[m,k] * b[n,k], the sum in FP32
 */
export const gemmFp8Tensor = defineKernel({
  name: 'gemm_fp8_tensor',
  args: {
    c: inout('float', 'm', 'n'),
    a_codes: input('u8', 'm', 'k'),
    a_scale: input('f32', 1),
    b_codes: input('u8', 'n', 'k'),
    b_scale: input('f32', 1),
    accumulate: i32,
  },
  reference({ c, a_codes, a_scale, b_codes, b_scale, accumulate }, dims) {
    const { m, n, k } = dims as { m: number; n: number; k: number }
    const alpha = fround(a_scale[0]! * b_scale[0]!)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let sum = 0
        for (let l = 0; l < k; l++) sum += e4m3.values[a_codes[i * k + l]!]! * e4m3.values[b_codes[j * k + l]!]!
        c[i * n + j] = accumulate ? c[i * n + j]! + alpha * sum : alpha * sum
      }
  },
  cases: [
    ...(
      [
        [1, 1, 1],
        [3, 40, 130],
        [33, 130, 256],
        [150, 70, 31],
        [144, 80, 160],
      ] as const
    ).map(([m, n, k], i) => ({ dims: { m, n, k }, scalars: { accumulate: i % 2 }, inputs: tensorInputs })),
    {
      dims: { m: 1024, n: 1024, k: 1024 },
      scalars: { accumulate: 0 },
      inputs: tensorInputs,
      bench: true,
      flops: 2 * 1024 ** 3,
    },
  ],
  tolerance: 2e-6,
  flops: ({ m, n, k }) => 2 * m! * n! * k!,
  cuda: expandedProduct({
    dtype: 'bf16',
    k: ({ k }) => k!,
    factor: true,
    native: {
      dtype: 'e4m3',
      layouts: () => ({ a: 'tensor', b: 'tensor' }),
      scales: () => ({ a: 'a_scale', b: 'b_scale' }),
    },
    tolerance: nativeTolerance,
  }),
})

function tensorInputs({ m, n, k }: Dims) {
  return {
    a_codes: finiteCodes(m! * k!, 151),
    b_codes: finiteCodes(n! * k!, 89),
    a_scale: Float32Array.of(0.0137),
    b_scale: Float32Array.of(0.00091),
  }
}
