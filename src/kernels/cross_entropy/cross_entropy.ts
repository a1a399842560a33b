import { defineKernel, i32, inout, input, optional, output } from '../../tensor/kernel.ts'

const everyThird = (rows: number, vocab: number): Int32Array =>
  Int32Array.from({ length: rows }, (_, r) => (r % 3 === 2 ? -1 : (r * 31) % vocab))

/**
 * Cross-entropy of each row of logits l with its target t, in nats, and its gradient in place of the logits:
 *
 *   losses[r] = log(sum_c exp l[r,c]) - l[r,t]          l[r,c] <- (softmax(l[r])[c] - (c = t)) * scale
 *
 * A target of -1 is ignored: loss and gradient 0. Any other target outside 0 .. vocab-1 gives NaN, which the guards of a run find.
 * With `gradient` 0 the logits stay as they are and `scale` may be absent. Where `rounded` is given it receives the gradient,
 * rounded to BF16, and the logits stay as they are.
 */
export const crossEntropy = defineKernel({
  name: 'cross_entropy',
  args: {
    logits: inout('f32', 'rows', 'vocab'),
    losses: output('f32', 'rows'),
    targets: input('i32', 'rows'),
    scale: optional(input('f32', 1)),
    rounded: optional(output('bf16', 'rows', 'vocab')),
    gradient: i32,
  },
  reference({ logits, losses, targets, scale, rounded, gradient }, { rows, vocab }) {
    const factor = scale ? scale[0]! : 1
    for (let r = 0; r < rows!; r++) {
      const row = logits.subarray(r * vocab!, (r + 1) * vocab!)
      const slopes = (rounded ?? logits).subarray(r * vocab!, (r + 1) * vocab!)
      const target = targets[r]!
      if (target === -1) {
        losses[r] = 0
        if (gradient) slopes.fill(0)
        continue
      }
      let largest = Number.NEGATIVE_INFINITY
      for (const l of row) largest = Math.max(largest, l)
      let sum = 0
      for (const l of row) sum += Math.exp(l - largest)
      const known = target >= 0 && target < vocab!
      losses[r] = known ? Math.log(sum) + largest - row[target]! : Number.NaN
      if (!gradient) continue
      for (let c = 0; c < vocab!; c++) slopes[c] = (Math.exp(row[c]! - largest) / sum - (c === target ? 1 : 0)) * factor
      if (!known) slopes.fill(Number.NaN)
    }
  },
  cases: [
    {
      dims: { rows: 1, vocab: 2 },
      scalars: { gradient: 1 },
      with: ['scale'],
      inputs: () => ({ targets: Int32Array.of(1) }),
    },
    {
      dims: { rows: 9, vocab: 272 },
      scalars: { gradient: 1 },
      with: ['scale'],
      inputs: ({ rows, vocab }) => ({
        targets: everyThird(rows!, vocab!),
        logits: Float32Array.from({ length: rows! * vocab! }, (_, i) => 100 * Math.sin(i)),
        scale: Float32Array.of(1 / 4096),
      }),
    },
    {
      dims: { rows: 5, vocab: 33 },
      scalars: { gradient: 0 },
      inputs: ({ rows, vocab }) => ({ targets: everyThird(rows!, vocab!) }),
    },
    {
      name: 'targets that do not exist',
      dims: { rows: 3, vocab: 33 },
      scalars: { gradient: 1 },
      inputs: () => ({ targets: Int32Array.of(33, -2, 5) }),
    },
    {
      dims: { rows: 7, vocab: 1032 },
      scalars: { gradient: 1 },
      with: ['scale', 'rounded'],
      inputs: ({ rows, vocab }) => ({ targets: everyThird(rows!, vocab!), scale: Float32Array.of(1 / 64) }),
    },
    {
      dims: { rows: 2048, vocab: 272 },
      scalars: { gradient: 1 },
      with: ['scale'],
      inputs: ({ rows, vocab }) => ({ targets: everyThird(rows!, vocab!) }),
      bench: true,
    },
  ],
  tolerance: 1e-6,
  cuda: { launches: ({ rows }) => [{ entry: 'rows', grid: rows!, block: 256 }] },
})

/**
 * loss[0] += the sum of `losses`, in FP64 and in order; loss[1] += the number of targets that are not ignored (exact below 2^24).
 */
export const lossSum = defineKernel({
  name: 'loss_sum',
  args: { loss: inout('f32', 2), losses: input('f32', 'rows'), targets: input('i32', 'rows') },
  reference({ loss, losses, targets }, { rows }) {
    let sum = 0
    let count = 0
    for (let r = 0; r < rows!; r++) {
      sum += losses[r]!
      if (targets[r] !== -1) count++
    }
    loss[0] = loss[0]! + sum
    loss[1] = loss[1]! + count
  },
  cases: [{ dims: { rows: 1 } }, { dims: { rows: 1001 }, inputs: ({ rows }) => ({ targets: everyThird(rows!, 50) }) }],
  tolerance: 0,
})
