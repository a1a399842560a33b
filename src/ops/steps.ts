import { attentionStep as attentionKernel } from '../kernels/attention_step/attention_step.ts'
import { convSiluStep as convSiluKernel } from '../kernels/conv_silu_step/conv_silu_step.ts'
import { ssdStep as ssdKernel } from '../kernels/ssd_step/ssd_step.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type HeadSizes, headShape } from './attention.ts'
import { type Parameter, type Tape, Var } from './tape.ts'

/** Ops for tokens that continue one sequence: what was seen before is in a tensor that they read and bring up to date. No gradients. */

/**
 * `attention` of qkv [rows, (heads + 2 kvHeads) headDim], whose first row is at `position` i32[1]. `cache` [capacity, 2 kvHeads, headDim]
 * of the dtype of activations holds keys and values; a row sees the last `capacity` tokens at most.
 */
export function attentionStep(tape: Tape, qkv: Var, cache: Tensor, position: Tensor, sizes: HeadSizes): Var {
  const shape = headShape('attentionStep', qkv, sizes)
  const { heads, headDim } = sizes
  const rows = shape[0]!
  const y = new Var(tape.allocate('act', [rows, heads * headDim]))
  const out = y.value.view([rows, heads, headDim])
  tape.backend.run(attentionKernel, { y: out, cache, qkv: qkv.value.view(shape), position })
  return y
}

/** `convSilu` of columns offset .. offset+C-1 of `projection`; `window` [taps - 1, C] holds the inputs of the tokens before. */
export function convSiluStep(
  tape: Tape,
  projection: Var,
  weight: Parameter,
  bias: Parameter,
  window: Tensor,
  offset: number,
): Var {
  const y = new Var(tape.allocate('act', [projection.value.shape[0]!, weight.shape[0]!]))
  const { value } = projection
  tape.backend.run(convSiluKernel, {
    y: y.value,
    window,
    projection: value,
    weight: weight.value,
    bias: bias.value,
    offset,
  })
  return y
}

/** `ssd` of xbc [rows, inner + 2 groups state] and of dt in columns offset .. of `projection`; `states` is f32 [heads, headDim, state]. */
export function ssdStep(
  tape: Tape,
  xbc: Var,
  projection: Var,
  dtBias: Parameter,
  aLog: Parameter,
  skip: Parameter,
  states: Tensor,
  { offset, groups }: { readonly offset: number; readonly groups: number },
): Var {
  const [heads, headDim] = states.shape as [number, number]
  const y = new Var(tape.allocate('act', [xbc.value.shape[0]!, heads * headDim]))
  tape.backend.run(ssdKernel, {
    y: y.value,
    states,
    xbc: xbc.value,
    projection: projection.value,
    dtBias: dtBias.value,
    aLog: aLog.value,
    skip: skip.value,
    offset,
    groups,
  })
  return y
}
