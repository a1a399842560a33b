import assert from 'node:assert/strict'
import { it } from 'node:test'
import { diagnose } from './guards.ts'
import type { StepResult } from './trainer.ts'

it('what is not finite is traced to a weight, then to the first operand, then to the gradient that comes first in the backward pass', () => {
  const result: StepResult = {
    loss: Number.NaN,
    lr: 1e-3,
    norm: Number.NaN,
    finite: false,
    updated: false,
    nonFinite: ['embeddings.weight', 'lm_head.weight'],
    zero: [],
    largest: { name: 'lm_head.weight', norm: 1 },
    nonFiniteOperands: [{ layer: 'layers.0.mixer.in_proj', tensor: 'input' }],
    numerics: [],
    phase: 0,
    routes: undefined,
  }
  assert.deepEqual(diagnose(result, () => ['backbone.norm_f.weight'])!.places, [
    { layer: 'norm_f', tensor: 'weight' },
    { layer: 'layers.0.mixer.in_proj', tensor: 'input' },
    { layer: 'lm_head', tensor: 'weight gradient' },
    { layer: 'embeddings', tensor: 'weight gradient' },
  ])
})
