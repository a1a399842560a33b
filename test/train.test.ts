import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { describe, it } from 'node:test'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import type { RunConfig } from '../src/config/schema.ts'
import type { Trainer } from '../src/train/trainer.ts'
import { openTrainer, smallConfig, testFolder } from './training.ts'

const folder = testFolder()
const config = (...overrides: string[]): RunConfig => smallConfig(folder, ...overrides)

/** Everything that a step reports and leaves behind. */
function steps(trainer: Trainer, count: number) {
  const reports = Array.from({ length: count }, (_, step) => {
    const { loss, norm, lr } = trainer.step(step)
    return { loss, norm, lr }
  })
  const { parameters } = trainer.model
  const { first, second } = trainer.optimizer.moments
  return { reports, tensors: [parameters.value, first, second].map(tensor => Buffer.from(tensor.floats().buffer)) }
}

async function train(count: number, ...overrides: string[]) {
  const trainer = await openTrainer(config(...overrides))
  try {
    return steps(trainer, count)
  } finally {
    trainer.model.backend.close()
  }
}

const relative = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b)

describe('training', () => {
  for (const recipe of ['nvfp4', 'bf16'])
    it(`in ${recipe} gives the same bits on 1, 2 and 3 threads`, async () => {
      const one = await train(4, `recipe=${recipe}`, 'threads=1')
      assert.ok(one.reports.every(({ loss, norm }) => loss > 0 && norm > 0))
      for (const threads of [2, 3])
        assert.deepEqual(await train(4, `recipe=${recipe}`, `threads=${threads}`), one, `${threads} threads`)
    })

  it('on every instruction level quantises to the same codes and finds nearly the same losses', async () => {
    const features = cpuFeatures()
    const usable = levels.filter(({ needs }) => needs.every(feature => features.has(feature)))
    const backends = [['backend=reference'], ...usable.map(({ name }) => [`level=${name}`])]
    const results = []
    for (const overrides of backends) {
      const trainer = await openTrainer(config('data.batch=1', 'data.micro_batch=1', ...overrides))
      const codes = trainer.model.linears
        .filter(({ recipe }) => recipe.forward.w)
        .map(linear => {
          const { codes, scales } = linear.forwardImages(trainer.model.tape).row
          return [codes, scales].map(tensor => tensor && Buffer.from(tensor.read() as Uint8Array).toString('hex'))
        })
      results.push({ codes, ...steps(trainer, 2) })
      trainer.model.backend.close()
    }
    const [want, ...others] = results
    assert.ok(want!.codes.length >= 4)
    for (const [i, got] of others.entries()) {
      assert.deepEqual(got.codes, want!.codes, usable[i]!.name)
      for (const [step, { loss, norm }] of got.reports.entries()) {
        assert.ok(relative(loss, want!.reports[step]!.loss) < 2e-3, `${usable[i]!.name}, step ${step}: loss ${loss}`)
        assert.ok(relative(norm, want!.reports[step]!.norm) < 5e-2, `${usable[i]!.name}, step ${step}: norm ${norm}`)
      }
    }
  })

  it('sums micro-batches as one batch, up to rounding', async () => {
    const overrides = ['recipe=fp32', 'data.batch=8']
    const whole = await train(3, ...overrides, 'data.micro_batch=8')
    const parts = await train(3, ...overrides, 'data.micro_batch=2')
    for (const [step, { loss, norm }] of parts.reports.entries()) {
      assert.ok(relative(loss, whole.reports[step]!.loss) < 1e-5, `loss ${loss} of step ${step}`)
      assert.ok(relative(norm, whole.reports[step]!.norm) < 1e-4, `norm ${norm} of step ${step}`)
    }
  })

  for (const activations of ['f32', 'bf16'])
    it(`with activations in ${activations} is alike on both backends`, async () => {
      const overrides = ['recipe=bf16', 'data.batch=1', 'data.micro_batch=1', `model.activations=${activations}`]
      const cpu = await train(3, ...overrides)
      const reference = await train(1, ...overrides, 'backend=reference')
      assert.ok(cpu.reports[2]!.loss < cpu.reports[0]!.loss)
      const [got, want] = [cpu.reports[0]!, reference.reports[0]!]
      const tolerance = activations === 'f32' ? 1e-4 : 5e-3
      assert.ok(relative(got.loss, want.loss) < tolerance, `loss ${got.loss}, reference ${want.loss}`)
      assert.ok(relative(got.norm, want.norm) < 10 * tolerance, `norm ${got.norm}, reference ${want.norm}`)
    })

  it('asks the backend for no memory after the second step, validation included', async () => {
    const trainer = await openTrainer(config())
    const { backend, tape } = trainer.model
    trainer.step(0)
    trainer.step(1)
    const before = { allocations: backend.usage.allocations, bytes: backend.usage.bytes, peak: tape.arena.peak }
    const live = tape.arena.live
    for (const step of [2, 3]) {
      trainer.validate()
      trainer.step(step)
    }
    assert.deepEqual(
      { allocations: backend.usage.allocations, bytes: backend.usage.bytes, peak: tape.arena.peak },
      before,
    )
    assert.equal(tape.arena.live, live)
    backend.close()
  })
})

it('training tiny stays under 1.5 GB of resident memory', () => {
  const main = new URL('../src/cli/main.js', import.meta.url).href
  const script = `import { run } from ${JSON.stringify(main)}
    await run(process.argv.slice(1))
    console.log('kilobytes:', process.resourceUsage().maxRSS)`
  const args = ['train', 'tiny', 'steps=3', 'data.batch=8', 'validation.batches=2', '--run', `${folder}/tiny`]
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script, '--', ...args], {
    encoding: 'utf8',
    cwd: folder,
  })
  assert.equal(status, 0, stderr)
  const kilobytes = Number(/kilobytes: (\d+)/.exec(stdout)?.[1])
  assert.ok(kilobytes > 10_000 && kilobytes < 1_500_000, `${kilobytes} kB`)
})
