import { defineKernel, f32, input, optional, output } from '../../tensor/kernel.ts'

/** Elements of `control`. */
export const control = {
  learningRate: 0,
  /** 1 - beta^t, by which a moment is divided to be unbiased. */
  correction1: 1,
  correction2: 2,
  /** What gradients are multiplied by so that their global norm is at most `clip`. */
  clipFactor: 3,
  /** Euclidean norm of all gradients before clipping. */
  gradientNorm: 4,
  /** 1 where all gradients and operands are finite and no segment is zero; 0 forbids the update. */
  update: 5,
  nonFiniteValues: 6,
  /** Segments whose gradient is zero throughout. */
  zeroSegments: 7,
} as const

/**
 * Everything that the update of a step needs and that changes from step to step, from the gradients' statistics (gradient_statistics.ts)
 * and from schedule = [learning rate, t], t = 1 for the first update:
 *
 *   norm = sqrt(sum of squares)          clip factor = min(1, clip / (norm + 1e-6)), as PyTorch's; 1 where clip is 0
 *
 * `operands` holds the amax (amax.ts) of whatever the step quantised: conversion to a narrow format hides what is not finite, so the flags
 * forbid the update here.
 */
export const optimizerControl = defineKernel({
  name: 'optimizer_control',
  args: {
    control: output('f32', 8),
    statistics: input('f32', 'segments', 4),
    schedule: input('f32', 2),
    operands: optional(input('f32', 'images', 2)),
    beta1: f32,
    beta2: f32,
    clip: f32,
  },
  reference({ control, statistics, schedule, operands, beta1, beta2, clip }, { segments }) {
    let squares = 0
    let infinite = 0
    let zero = 0
    for (let s = 0; s < segments!; s++) {
      squares += statistics[4 * s]!
      infinite += statistics[4 * s + 2]!
      if (statistics[4 * s + 3] === 0) zero++
    }
    const [rate, t] = schedule as unknown as [number, number]
    const norm = Math.sqrt(squares)
    const finite = infinite === 0 && Number.isFinite(Math.fround(norm))
    const hidden = operands?.some((value, i) => i % 2 === 1 && value !== 0) ?? false
    control[0] = rate
    control[1] = -Math.expm1(t * Math.log(Math.fround(beta1)))
    control[2] = -Math.expm1(t * Math.log(Math.fround(beta2)))
    control[3] = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1
    control[4] = norm
    control[5] = finite && zero === 0 && !hidden ? 1 : 0
    control[6] = infinite
    control[7] = zero
  },
  cases: (
    [
      ['clipped', 7, 1, [9, 1, 0, 3, 16, 2, 0, 5]],
      ['not clipped', 1, 1, [0.01, 1, 0, 3]],
      ['clipped, a norm as small as what is added to it', 3, 1e-6, [1e-12, 1e-6, 0, 3]],
      ['a norm beyond FP32', 3, 1, [Number.POSITIVE_INFINITY, 1e30, 0, 3]],
      ['no clipping, a zero segment', 100_000, 0, [9, 1, 0, 3, 0, 0, 0, 0]],
      ['a gradient that is not finite', 3, 1, [9, 1, 2, 3]],
      ['finite operands', 3, 1, [9, 1, 0, 3], [1, 0, 2, 0, 3, 0]],
      ['the last of many operands is not finite', 3, 1, [9, 1, 0, 3], [...Array(598).fill(0), 1, 1]],
    ] as const satisfies readonly (readonly [string, number, number, readonly number[], (readonly number[])?])[]
  ).map(([name, t, clip, statistics, operands]) => ({
    name,
    dims: { segments: statistics.length / 4, ...(operands && { images: operands.length / 2 }) },
    ...(operands && { with: ['operands' as const] }),
    scalars: { beta1: 0.9, beta2: 0.95, clip },
    inputs: () => ({
      statistics: Float32Array.from(statistics),
      schedule: Float32Array.of(1e-3, t),
      ...(operands && { operands: Float32Array.from(operands) }),
    }),
  })),
  tolerance: 1e-7,
})
