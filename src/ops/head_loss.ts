import { crossEntropy, lossSum } from '../kernels/cross_entropy/cross_entropy.ts'
import { gemmNn, gemmNt, gemmTn } from '../kernels/gemm/gemm.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { passGradient } from './add.ts'
import { castTo } from './image.ts'
import { type Parameter, type Tape, Var } from './tape.ts'
import type { WorkingCopy } from './working_copy.ts'

/** The output layer. */
export interface Head {
  /** [vocab, cols]. */
  readonly weight: Parameter
  /** Of the weight, for products that round; absent: they round it themselves. */
  readonly copy?: WorkingCopy
  /** Operands of the products are rounded to BF16. */
  readonly round: boolean
}

export interface HeadLossOptions {
  /** f32[1]: what every row's loss is multiplied by for the gradients: 1 / tokens of the global batch. Not needed without gradients. */
  readonly scale?: Tensor
  /** f32[2]: the sum of the losses in nats and the number of targets are added to it. */
  readonly loss: Tensor
  /** f32[rows]: receives the loss of every row, 0 where the target is ignored. */
  readonly losses?: Tensor
  /** 1 (the default) adds to the gradient of w, 0 overwrites it. */
  readonly accumulate?: 0 | 1
  /** Rows whose logits exist at one time; by default so many that they take the backend's `temporaryBytes`, at least 512: each chunk reads all of w. */
  readonly chunk?: number
}

/**
 * The output layer and its cross-entropy: logits = h wᵀ for h [rows, cols], w [vocab, cols] and targets i32[rows], -1 where there
 * is nothing to predict.
 *
 * Logits exist for `chunk` rows at a time. The loss ends the tape, so where it records, the gradients are computed at once: that of
 * w is written, that of h is kept until the tape goes backwards.
 */
export function headLoss(tape: Tape, h: Var, head: Head, targets: Tensor, options: HeadLossOptions): void {
  const { backend } = tape
  const { weight } = head
  const [rows, cols] = h.value.shape as [number, number]
  const vocab = weight.shape[0]!
  const {
    scale,
    loss,
    accumulate = 1,
    chunk = Math.max(512, Math.floor(backend.temporaryBytes / 256 / vocab) * 64),
  } = options
  if (tape.recording && !scale)
    throw new TypeError('headLoss: scale must be f32[1] where gradients are wanted, got nothing')
  const round = head.round ? 1 : 0
  // Operands that are wanted in BF16 are rounded once, not in each product, where that is the dtype of activations anyway.
  const halves = head.round && tape.activations === 'bf16'
  const w = halves ? castTo(backend, tape.allocate, operandOf(head), 'bf16') : weight.value
  const losses = options.losses ?? tape.allocate('f32', [rows])
  const dh = tape.recording ? tape.allocate('act', h.value.shape) : undefined
  for (let start = 0; start < rows; start += chunk)
    tape.scope(() => {
      const n = Math.min(chunk, rows - start)
      const a = h.value.part(start * cols, [n, cols])
      const logits = tape.allocate('f32', [n, vocab])
      const rounded = halves && dh ? tape.allocate('bf16', [n, vocab]) : undefined
      backend.run(gemmNt, { c: logits, a, b: w, accumulate: 0, round })
      backend.run(crossEntropy, {
        logits,
        losses: losses.part(start, [n]),
        targets: targets.part(start, [n]),
        scale,
        rounded,
        gradient: dh ? 1 : 0,
      })
      if (!dh) return
      const slopes = rounded ?? logits
      backend.run(gemmNn, { c: dh.part(start * cols, [n, cols]), a: slopes, b: w, accumulate: 0, round })
      backend.run(gemmTn, { c: weight.gradient, a: slopes, b: a, accumulate: start > 0 ? 1 : accumulate, round })
    })
  backend.run(lossSum, { loss, losses, targets })
  if (!dh) return
  const end = new Var(dh)
  tape.shareGradient(end, dh)
  tape.record(end, [], gradient => passGradient(tape, h, gradient))
}

/** The weight as a product reads it. */
const operandOf = ({ weight, copy, round }: Head): Tensor => (copy && round ? copy.operand() : weight.value)

/** Scores [rows, vocab] in FP32 of every next token, for sampling; no gradient. */
export function logits(tape: Tape, h: Var, head: Head): Var {
  const scores = tape.allocate('f32', [h.value.shape[0]!, head.weight.shape[0]!])
  const round = head.round ? 1 : 0
  tape.backend.run(gemmNt, { c: scores, a: h.value, b: operandOf(head), accumulate: 0, round })
  return new Var(scores)
}
