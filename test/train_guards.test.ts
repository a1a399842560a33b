import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { isDeepStrictEqual } from 'node:util'
import type { RunConfig } from '../src/config/schema.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { listCheckpoints } from '../src/run/checkpoint.ts'
import { openRun } from '../src/run/open.ts'
import { readEvents, readMetrics } from '../src/run/read.ts'
import type { EventRecord } from '../src/run/records.ts'
import { train } from '../src/train/loop.ts'
import type { Trainer } from '../src/train/trainer.ts'
import { runCli } from './cli.ts'
import { configFile, openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

/** Every byte of every checkpoint, by path. */
const checkpoints = (run: string): Map<string, string> =>
  new Map(
    listCheckpoints(run)
      .flatMap(step => {
        const folder = join(run, 'checkpoints', String(step))
        return readdirSync(folder).map(name => join(folder, name))
      })
      .map(path => [path, readFileSync(path, 'latin1')]),
  )

interface Attempt {
  readonly error: (Error & { exitCode?: number }) | undefined
  readonly events: EventRecord[]
  /** Bytes of all weights in the end. */
  readonly weights: Buffer
  /** Checkpoints when the fault was made, and in the end. */
  readonly before: Map<string, string>
  readonly after: Map<string, string>
}

const bytesOfWeights = (trainer: Trainer): Buffer => Buffer.from(trainer.model.parameters.value.floats().buffer)

let runs = 0

/** Trains and, after `step` steps, does `fault` to the model. */
async function trainWith(config: RunConfig, step: number, fault: (trainer: Trainer) => void): Promise<Attempt> {
  const corpus = openCorpus(config.data.files, config.data.tokenizer)
  const trainer = await openTrainer(config, corpus)
  const directory = join(folder, `run-${++runs}`)
  const run = openRun(directory, config, { halfbyte: '0.1.0', device: {}, corpus: corpus.fingerprint })
  let before = new Map<string, string>()
  let error: Attempt['error']
  try {
    await train(run, trainer, {
      step(progress) {
        if (progress.step !== step) return
        before = checkpoints(directory)
        fault(trainer)
      },
    })
  } catch (caught) {
    error = caught as Error
  } finally {
    run.close()
  }
  const weights = bytesOfWeights(trainer)
  trainer.model.backend.close()
  return { error, events: [...readEvents(directory)], weights, before, after: checkpoints(directory) }
}

/** Sets some elements of a parameter. */
function change(trainer: Trainer, name: string, edit: (values: Float32Array) => void): void {
  const { value } = trainer.model.parameters.named(name)
  const values = value.floats()
  edit(values)
  value.write(values)
  trainer.model.weightsChanged()
}

describe('a run stops and keeps its last good checkpoint', () => {
  for (const recipe of ['nvfp4', 'bf16'])
    it(`when a weight is not finite, in ${recipe}`, async () => {
      const config = smallConfig(folder, `recipe=${recipe}`, 'checkpoint.every=2')
      const { error, events, before, after } = await trainWith(config, 5, trainer =>
        change(trainer, 'backbone.layers.1.mixer.up_proj.weight', values => {
          values[77] = Number.NaN
        }),
      )
      assert.match(
        error!.message,
        /^training stopped at step 6: .*, seen first in the weight of layers\.1\.mixer\.up_proj( \(and in \d+ more\))?; the checkpoint of step 4 is untouched$/,
      )
      assert.equal(error!.exitCode, 1)
      const [event, ...others] = events
      assert.deepEqual(others, [])
      const { step, layer, tensor } = event!
      assert.deepEqual([step, event!.event, layer, tensor], [6, 'non_finite', 'layers.1.mixer.up_proj', 'weight'])
      assert.ok(before.size >= 6)
      assert.ok(isDeepStrictEqual(after, before), 'a checkpoint has changed')
    })

  it('when activations overflow, and names where', async () => {
    const config = smallConfig(folder, 'checkpoint.every=2')
    let faulty: Buffer | undefined
    const { error, events, weights, before, after } = await trainWith(config, 5, trainer => {
      change(trainer, 'backbone.layers.1.mixer.up_proj.weight', values => values.fill(1e30))
      faulty = bytesOfWeights(trainer)
    })
    assert.match(error!.message, /seen first in the input of layers\.1\.mixer\.down_proj/)
    assert.deepEqual([events[0]!.layer, events[0]!.tensor], ['layers.1.mixer.down_proj', 'input'])
    assert.ok(isDeepStrictEqual(after, before), 'a checkpoint has changed')
    assert.ok(weights.equals(faulty!), 'weights were moved by a gradient that is not finite')
  })

  it('when gradients are not finite from the end on: the layer that they come to first goes first', async () => {
    const trainer = await openTrainer(smallConfig(folder))
    const setScale = trainer.model.setScale.bind(trainer.model)
    trainer.model.setScale = () => setScale(Number.POSITIVE_INFINITY)
    const { loss, updated, nonFiniteOperands } = trainer.step(0)
    trainer.model.backend.close()
    assert.ok(Number.isFinite(loss) && !updated)
    assert.deepEqual(nonFiniteOperands[0], { layer: 'layers.2.mixer.o_proj', tensor: 'output gradient' })
  })

  it('when gradients are not finite in the first micro-batch alone', async () => {
    const trainer = await openTrainer(smallConfig(folder))
    const { model } = trainer
    const loss = model.loss.bind(model)
    model.loss = (batch, i) => {
      model.setScale(i === 0 ? Number.POSITIVE_INFINITY : 1 / trainer.tokensPerStep)
      loss(batch, i)
    }
    const { nonFiniteOperands } = trainer.step(0)
    model.backend.close()
    assert.deepEqual(nonFiniteOperands[0], { layer: 'layers.2.mixer.o_proj', tensor: 'output gradient' })
  })

  for (const validates of [true, false])
    it(`when a weight stops being finite in the very step that would be ${validates ? 'validated and ' : ''}saved`, async () => {
      const config = smallConfig(folder, 'checkpoint.every=3', `validation.every=${validates ? 3 : 0}`)
      const { error, events, before, after } = await trainWith(config, 6, trainer =>
        change(trainer, 'lm_head.weight', values => {
          values[0] = Number.POSITIVE_INFINITY
        }),
      )
      assert.match(error!.message, /^training stopped at step 6: .*lm_head; the checkpoint of step 3 is untouched$/)
      assert.deepEqual([events[0]!.event, events[0]!.layer, events[0]!.tensor], ['non_finite', 'lm_head', 'weight'])
      assert.ok(isDeepStrictEqual(after, before), 'a checkpoint has changed')
    })

  it('when a gradient is zero throughout', async () => {
    const config = smallConfig(folder, 'checkpoint.every=2')
    const { error, events, before, after } = await trainWith(config, 5, trainer =>
      change(trainer, 'backbone.layers.2.mixer.o_proj.weight', values => values.fill(0)),
    )
    assert.match(
      error!.message,
      /^training stopped at step 6: all values are zero in the weight gradient of layers\.2\.mixer\.qkv_proj/,
    )
    const { step, event, layer, tensor } = events[0]!
    assert.deepEqual([step, event, layer, tensor], [6, 'zero_gradient', 'layers.2.mixer.qkv_proj', 'weight gradient'])
    assert.ok(isDeepStrictEqual(after, before), 'a checkpoint has changed')
  })
})

it('a loss spike is recorded with the largest gradient, and training goes on', async () => {
  const config = smallConfig(folder, 'steps=34', 'checkpoint.every=0', 'validation.every=0')
  const { error, events } = await trainWith(config, 30, trainer =>
    change(trainer, 'lm_head.weight', values => {
      for (const i of values.keys()) values[i]! *= 1000
    }),
  )
  assert.equal(error, undefined)
  const [spike] = events
  assert.deepEqual([spike!.step, spike!.event], [31, 'loss_spike'])
  assert.ok((spike!.deviations as number) > 6 && (spike!.norm as number) > 0)
  assert.match(`${spike!.layer} ${spike!.tensor}`, /^(layers\.|norm_f|lm_head|embeddings)\S* .*gradient$/)
})

it('an absurd learning rate ends the command with exit code 1, one sentence and a run without a bad checkpoint', () => {
  const run = join(folder, 'absurd')
  const { status, stderr } = runCli(['train', configFile(folder), 'optimizer.lr=1e30', '--run', run])
  assert.equal(status, 1)
  assert.match(stderr, /^halfbyte: training stopped at step \d+: .*; no checkpoint had been written\n$/)
  assert.equal([...readEvents(run)].at(-1)!.event, 'non_finite')
  assert.ok([...readMetrics(run)].length < 4)
})
