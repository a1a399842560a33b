import { roundBf16 } from '../../formats/bf16.ts'
import { defineKernel, i32, inout, input } from '../../tensor/kernel.ts'
import { plainProduct } from './gemm.cuda.ts'

type Layout = 'n' | 't'

/** [m, n, k] */
const sizes: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [1, 40, 17],
  [3, 5, 7],
  [17, 70, 33],
  [64, 64, 64],
  [130, 97, 300],
  [2, 300, 520],
  [35, 1, 20],
  [5, 40, 1030],
  [150, 70, 1100],
]

/** `layoutA` t: a is [k,m]; `layoutB` t: b is [n,k]. */
const product = (name: string, layoutA: Layout, layoutB: Layout) =>
  defineKernel({
    name,
    args: {
      c: inout('float', 'm', 'n'),
      a: layoutA === 't' ? input('float', 'k', 'm') : input('float', 'm', 'k'),
      b: layoutB === 't' ? input('float', 'n', 'k') : input('float', 'k', 'n'),
      accumulate: i32,
      round: i32,
    },
    reference({ c, a, b, accumulate, round }, dims) {
      const { m, n, k } = dims as { m: number; n: number; k: number }
      const left = round ? a.map(roundBf16) : a
      const right = round ? b.map(roundBf16) : b
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let sum = 0
          for (let l = 0; l < k; l++)
            sum += left[layoutA === 't' ? l * m + i : i * k + l]! * right[layoutB === 't' ? j * k + l : l * n + j]!
          c[i * n + j] = accumulate ? c[i * n + j]! + sum : sum
        }
    },
    cases: [
      ...sizes.map(([m, n, k], i) => ({
        dims: { m, n, k },
        scalars: { accumulate: i % 2, round: i % 3 === 2 ? 1 : 0 },
      })),
      {
        dims: { m: 1024, n: 1024, k: 1024 },
        scalars: { accumulate: 0, round: 0 },
        bench: true,
        flops: 2 * 1024 ** 3,
      },
    ],
    tolerance: 2e-6,
    flops: ({ m, n, k }) => 2 * m! * n! * k!,
    cuda: plainProduct(layoutA, layoutB),
  })

/**
 * Products of FP32 or BF16 matrices, in the four layouts of the operands:
 *
 *   gemm_nt   c[m,n] (+)= sum_k a[m,k] * b[n,k]          gemm_nn   c[m,n] (+)= sum_k a[m,k] * b[k,n]
 *   gemm_tn   c[m,n] (+)= sum_k a[k,m] * b[k,n]          gemm_tt   c[m,n] (+)= sum_k a[k,m] * b[n,k]
 *
 * Sums are in FP32, whatever the dtypes of a, b and c, each of which may be f32 or bf16 on its own. `round` 1 rounds both
 * operands to BF16 first: recipe `bf16` on FP32 activations. `accumulate` 1 adds to c in FP32 before c is rounded to its dtype.
 */
export const gemmNt = product('gemm_nt', 'n', 't')
export const gemmNn = product('gemm_nn', 'n', 'n')
export const gemmTn = product('gemm_tn', 't', 'n')
export const gemmTt = product('gemm_tt', 't', 't')
