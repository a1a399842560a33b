import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, it } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { loadConfig } from '../src/config/load.ts'
import { Stream } from '../src/formats/philox.ts'
import { listCheckpoints, readCheckpoint } from '../src/run/checkpoint.ts'
import { openRun } from '../src/run/open.ts'
import { readMetrics } from '../src/run/read.ts'

const root = mkdtempSync(join(tmpdir(), 'halfbyte-kill-'))
after(() => rmSync(root, { recursive: true, force: true }))

const config = loadConfig('writer', ['steps=1000000', 'checkpoint.keep=2'], {
  writer: {
    steps: 1,
    recipe: 'bf16',
    model: { pattern: '-', hidden: 16, ffn: 32, vocab: 272, init_std: 0.02 },
    data: { sequence: 16, batch: 4, micro_batch: 2 },
    optimizer: { lr: 1e-3 },
  },
})
const origin = { halfbyte: '0.1.0', device: {}, corpus: 'c0ffee' }

/** Writes records and a checkpoint at every third step, as fast as it can. */
const writer = `
  import { openRun } from ${JSON.stringify(new URL('../src/run/open.js', import.meta.url).href)}
  const [directory, config, origin] = JSON.parse(process.argv[1])
  const run = openRun(directory, config, origin)
  console.log('open')
  for (let step = run.startStep + 1; ; step++) {
    run.metrics({ step, loss: 1 / step, tokens: step, lr: 1, grad_norm: 1, tokens_per_second: 1 })
    if (step % 3 === 0)
      run.save({ model: [{ name: 'w', dtype: 'f32', shape: [50000], read: (start, into) => into.fill(step) }] }, { step, seed: 1, tokens: step })
  }`

/** Kills a writer so long after it has saved something new. */
async function killed(directory: string, milliseconds: number): Promise<void> {
  const child = spawn(process.execPath, [
    '--input-type=module',
    '-e',
    writer,
    JSON.stringify([directory, config, origin]),
  ])
  let errors = ''
  child.stderr.on('data', text => {
    errors += text
  })
  const ended = new Promise(resolve => child.once('exit', resolve))
  await Promise.race([new Promise(resolve => child.stdout.once('data', resolve)), ended])
  assert.equal(child.exitCode, null, errors)
  const before = listCheckpoints(directory).at(-1)
  while (listCheckpoints(directory).at(-1) === before && child.exitCode === null) await setTimeout(2)
  await setTimeout(milliseconds)
  child.kill('SIGKILL')
  await ended
}

it('a writer killed at any moment leaves a run that goes on where its newest checkpoint is', {
  timeout: 60_000,
}, async () => {
  const directory = join(root, 'run')
  const random = new Stream(6, 0)
  for (let kill = 0; kill < 4; kill++) {
    await killed(directory, random.below(60))
    const steps = listCheckpoints(directory)
    for (const step of steps) assert.equal(readCheckpoint(directory, step).state.step, step)
    const run = openRun(directory, config, origin)
    assert.equal(run.startStep, steps.at(-1))
    run.close()
    const recorded = [...readMetrics(directory)].map(({ step }) => step)
    assert.deepEqual(
      recorded,
      Array.from({ length: run.startStep }, (_, i) => i + 1),
    )
    const left = readdirSync(join(directory, 'checkpoints')).filter(name => name.startsWith('.'))
    assert.deepEqual(left, [])
  }
})
