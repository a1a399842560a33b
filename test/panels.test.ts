import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { chooseLevel, levels } from '../src/backends/levels.ts'
import { describeRun, dryRunText } from '../src/cli/dry_run.ts'
import { smallConfig, testFolder } from './training.ts'
import { watchedSteps } from './watched_steps.ts'

const folder = testFolder()
const { name: portable } = levels.find(({ panelColumns }) => panelColumns === undefined)!

/** Three steps of two micro-batches with validation in between: what they compute, which panels are made, and how many products read them. */
async function train(...overrides: string[]) {
  let made = 0
  let read = 0
  const results = await watchedSteps(folder, overrides, ({ name }, { b_packed }) => {
    if (name.startsWith('pack_')) made++
    if (b_packed) read++
  })
  return { made, read, results }
}

const skip = chooseLevel().panelColumns === undefined && 'products on this processor read codes'

describe('panels of weights', { skip }, () => {
  for (const recipe of ['nvfp4', 'nvfp4-plain', 'mxfp4'])
    it(`in ${recipe} are made once between two steps, for the numbers of codes`, async () => {
      const recipeOfAll = [`recipe=${recipe}`, 'model.bf16_blocks=[0,0]']
      const kept = await train(...recipeOfAll)
      const without = await train(...recipeOfAll, 'model.recompute=block')
      // Four layers; a step wants both orientations, validation one.
      assert.equal(kept.made, 3 * 4 * (2 + 1))
      // Of two micro-batches, and of two batches of validation.
      assert.equal(kept.read, 3 * 4 * (2 * 2 + 2))
      assert.deepEqual([without.made, without.read], [0, 0])
      assert.deepEqual(kept.results, without.results)
    })

  it('are not made where products read codes, or of other formats', async () => {
    for (const overrides of [
      ['recipe=nvfp4', `level=${portable}`],
      ['recipe=nvfp4-weights-only-square'],
      ['recipe=fp8'],
      ['recipe=nvfp4', 'backend=reference', 'data.batch=1', 'data.micro_batch=1', 'data.sequence=16'],
    ])
      assert.equal((await train(...overrides)).made, 0, overrides.join(' '))
  })

  it('are in what the dry run says', () => {
    const config = (...overrides: string[]) =>
      smallConfig(folder, 'recipe=nvfp4', 'model.bf16_blocks=[0,0]', ...overrides)
    const { linears, memory } = describeRun(config())
    const weights = linears.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
    // 16 values in 20 bytes, in two orientations.
    assert.equal(memory.panels, 2.5 * weights)
    assert.match(dryRunText(config()), /unpacked for products/)
    for (const other of [`level=${portable}`, 'backend=reference', 'model.recompute=block'])
      assert.doesNotMatch(dryRunText(config(other)), /unpacked for products/)
  })
})
