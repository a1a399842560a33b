import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { kernels } from '../src/kernels/index.ts'
import { recipes } from '../src/recipes/recipes.ts'
import { phases } from '../src/recipes/resolve.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { type StepResult, Trainer } from '../src/train/trainer.ts'
import { smallConfig, testFolder } from './training.ts'

/** What CUDA graphs rest on: a step that is recorded once and replayed computes what it would have computed. */

const folder = testFolder()

/** The cpu backend, with steps recorded as lists of calls; results are read when they are asked for, as late as may be. */
async function recordingBackend() {
  const cpu = await openBackend('cpu', kernels, { threads: 1 })
  const recorded = new Map<string, (() => void)[]>()
  const replayed: string[] = []
  let recording: (() => void)[] | undefined
  const outside = () => assert.equal(recording, undefined, 'a recorded step touches host memory')
  const call = (work: () => void) => {
    if (recording) recording.push(work)
    else work()
  }
  const backend: Backend = {
    ...cpu,
    alloc(bytes) {
      return cpu.alloc(bytes)
    },
    free(memory) {
      assert.equal(recorded.size, 0, 'memory that a recorded step may use is freed')
      cpu.free(memory)
    },
    write(memory, offset, data) {
      outside()
      cpu.write(memory, offset, data)
    },
    read(memory, offset, into) {
      outside()
      cpu.read(memory, offset, into)
    },
    readLater(memory, offset, into) {
      outside()
      cpu.read(memory, offset, into)
      return () => {}
    },
    zero: (...given) => call(() => cpu.zero(...given)),
    copy: (...given) => call(() => cpu.copy(...given)),
    run: (kernel, bindings) => call(() => cpu.run(kernel, bindings)),
    capture(key, body) {
      let list = recorded.get(key)
      if (!list) {
        recording = []
        body()
        list = recording
        recording = undefined
        recorded.set(key, list)
      } else replayed.push(key)
      for (const work of list) work()
    },
  }
  return { backend, replayed, close: () => cpu.close() }
}

describe('a recorded step', () => {
  // A recipe that draws signs anew at each step, and one of two phases.
  const late = Object.values(recipes).find(recipe => phases(recipe, 12).length === 2)!
  for (const recipe of ['nvfp4', 'nvfp4-signs-fresh', 'fp8', late.name])
    it(`in ${recipe} computes the same bits when it is replayed`, async () => {
      const config = smallConfig(folder, `recipe=${recipe}`, 'steps=12')
      const corpus = openCorpus(config.data.files, config.data.tokenizer)
      const { backend, replayed, close } = await recordingBackend()
      const plain = new Trainer(config, await openBackend('cpu', kernels, { threads: 1 }), corpus)
      const trainer = new Trainer(config, backend, corpus)
      assert.ok(trainer.overlaps && !plain.overlaps)
      const pending: { want: StepResult; result: () => StepResult }[] = []
      for (let step = 0; step < 12; step++) {
        const want = plain.step(step, step === 5)
        pending.push({ want, result: trainer.begin(step, step === 5) })
        if (step === 7) assert.deepEqual(trainer.validate(), plain.validate())
        if (pending.length < 2) continue
        const last = pending.shift()!
        const { routes, ...got } = last.result()
        assert.deepEqual({ ...got, routes }, { ...last.want, routes })
      }
      const weights = (of: Trainer) => Buffer.from(of.model.parameters.value.floats().buffer)
      assert.ok(weights(trainer).equals(weights(plain)))
      const used = phases(trainer.model.recipe, 12).length
      assert.equal(new Set(replayed).size, used, 'one recording for each phase of the recipe')
      assert.equal(replayed.length, 12 - 1 - used)
      plain.model.backend.close()
      close()
    })
})
