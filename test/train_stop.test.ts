import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { openCorpus } from '../src/data/corpus.ts'
import { openRun } from '../src/run/open.ts'
import { readMetrics } from '../src/run/read.ts'
import { train } from '../src/train/loop.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()

describe('training that is stopped', () => {
  for (const [step, overlaps] of [
    [1, false],
    [3, true],
  ] as const)
    it(`after step ${step} ${overlaps ? 'while steps overlap ' : ''}ends with it, saves it and counts its tokens`, async () => {
      const config = smallConfig(folder, 'checkpoint.every=0')
      const corpus = openCorpus(config.data.files, config.data.tokenizer)
      const trainer = await openTrainer(config, corpus)
      Object.defineProperty(trainer, 'overlaps', { value: overlaps })
      const directory = join(folder, `stopped-${step}`)
      const run = openRun(directory, config, { halfbyte: '0.1.0', device: {}, corpus: corpus.fingerprint })
      const stop = new AbortController()
      const outcome = await train(
        run,
        trainer,
        { until: step, step: progress => progress.step === step && stop.abort() },
        stop.signal,
      )
      run.close()
      trainer.model.backend.close()
      assert.deepEqual([outcome.status, outcome.step, run.savedStep], ['interrupted', step, step])
      assert.deepEqual(
        [...readMetrics(directory)].map(({ tokens }) => tokens),
        Array.from({ length: step }, (_, i) => (i + 1) * 4 * 32),
      )
    })
})
