import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { UserError } from '../src/config/errors.ts'
import { loadConfig } from '../src/config/load.ts'
import type { RunPreset } from '../src/config/schema.ts'
import { createRunDirectory, openRun } from '../src/run/open.ts'
import { type Origin, readConfig, readEvents, readMetrics, readNumerics } from '../src/run/read.ts'
import { isTraining, isValidation } from '../src/run/records.ts'
import type { Run } from '../src/run/run.ts'

const preset: RunPreset = {
  name: 'tiny',
  steps: 40,
  recipe: 'bf16',
  model: { pattern: '-', hidden: 16, ffn: 32, vocab: 272, init_std: 0.02 },
  data: { sequence: 16, batch: 4, micro_batch: 2 },
  optimizer: { lr: 1e-3 },
}
const configWith = (...overrides: string[]) => loadConfig('tiny', overrides, { tiny: preset })
const config = configWith()
const origin: Origin = { halfbyte: '0.1.0', device: { backend: 'cpu', level: 'avx2', threads: 2 }, corpus: 'c0ffee' }

const root = mkdtempSync(join(tmpdir(), 'halfbyte-run-'))
after(() => rmSync(root, { recursive: true, force: true }))
let count = 0
const fresh = () => join(root, `run-${++count}`)

const refuses = (run: () => unknown, message: string) =>
  assert.throws(run, error => {
    assert.ok(error instanceof UserError, (error as Error).stack)
    assert.equal(error.exitCode, 1)
    assert.equal(error.message.replaceAll(root, 'ROOT'), message)
    return true
  })

const weights = (value: number) => ({
  model: [
    {
      name: 'w',
      dtype: 'f32' as const,
      shape: [3],
      read: (_: number, into: { fill(v: number): unknown }) => into.fill(value),
    },
  ],
})
/** Trains up to `last`, with a checkpoint every ten steps. */
function train(run: Run, last: number): void {
  for (let step = run.startStep + 1; step <= last; step++) {
    run.metrics({ step, loss: 1 / step, tokens: 64 * step, lr: 1e-3, grad_norm: 1, tokens_per_second: 100 })
    if (step % 10 !== 0) continue
    run.metrics({ step, validation_loss: 2 / step })
    run.save(weights(step), { step, seed: 1, tokens: 64 * step })
  }
}
const open = (directory: string, change = config, from = origin) => openRun(directory, change, from)
const start = (last = 25): string => {
  const directory = fresh()
  const run = open(directory)
  train(run, last)
  run.close()
  return directory
}

describe('a run that something else has written to', () => {
  const made = (): string => {
    const directory = fresh()
    openRun(directory, config, origin).close()
    return directory
  }

  it('is refused by the key of its config.json', () => {
    const cases: [change: Record<string, unknown>, message: string][] = [
      [{ device: undefined }, 'device is not as halfbyte writes it, wanted what describes a backend'],
      [{ device: 3 }, 'device is not as halfbyte writes it, wanted what describes a backend'],
      [{ corpus: undefined }, 'corpus is not as halfbyte writes it, wanted text'],
      [{ halfbyte: {} }, 'halfbyte is not as halfbyte writes it, wanted text'],
      [{ branch: { run: 'a', step: 'x', recipe: 'bf16' } }, 'branch.step is not as halfbyte writes it, wanted a step'],
      [{ imported: 3 }, 'imported is not as halfbyte writes it, wanted text'],
    ]
    for (const [change, message] of cases) {
      const directory = made()
      const path = join(directory, 'config.json')
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
      refuses(() => readConfig(directory), `${path.replace(root, 'ROOT')} is damaged: ${message}`)
    }
  })

  it('and deleted while it trains is not begun again', () => {
    const directory = fresh()
    const run = openRun(directory, config, origin)
    run.metrics({ step: 1, loss: 5, tokens: 1, lr: 1, grad_norm: 1, tokens_per_second: 1 })
    rmSync(directory, { recursive: true })
    refuses(
      () => run.save(weights(1), { step: 1, seed: 1, tokens: 1 }),
      `run directory ${directory.replace(root, 'ROOT')} is gone: it was deleted or moved while it trained`,
    )
    run.close()
    assert.ok(!existsSync(directory))
  })

  it('is refused by the file of records that cannot be read or holds others', () => {
    const directory = made()
    mkdirSync(join(directory, 'metrics.jsonl'))
    const at = (name: string) => join(directory, name).replace(root, 'ROOT')
    refuses(
      () => [...readMetrics(directory)],
      `${at('metrics.jsonl')} cannot be read: EISDIR: illegal operation on a directory`,
    )
    writeFileSync(join(directory, 'numerics.jsonl'), '{"step":1}\n')
    refuses(
      () => [...readNumerics(directory)],
      `${at('numerics.jsonl')}: found a record of step 1 without "linear", wanted the layer's name`,
    )
  })
})

describe('run directory', () => {
  it('holds the resolved config, the format version and where the run began', () => {
    const directory = start()
    const stored = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
    assert.deepEqual(
      [stored.format, stored.halfbyte, stored.device, stored.corpus],
      [1, '0.1.0', origin.device, 'c0ffee'],
    )
    assert.deepEqual([stored.seed, stored.optimizer.beta2, stored.data.tokenizer], [1, 0.95, 'bytes'])
    assert.deepEqual(readConfig(directory), config)
    assert.deepEqual(readdirSync(directory).sort(), ['checkpoints', 'config.json', 'metrics.jsonl'])
    assert.deepEqual(readdirSync(join(directory, 'checkpoints')).sort(), ['10', '20'])
  })

  it('holds compact records, training and validation apart', () => {
    const directory = start()
    const text = readFileSync(join(directory, 'metrics.jsonl'), 'utf8')
    assert.equal(
      text.split('\n')[0],
      '{"step":1,"loss":1,"tokens":64,"lr":0.001,"grad_norm":1,"tokens_per_second":100}',
    )
    const records = [...readMetrics(directory)]
    assert.deepEqual(
      records.filter(isTraining).map(({ step }) => step),
      Array.from({ length: 25 }, (_, i) => i + 1),
    )
    assert.deepEqual(
      records.filter(isValidation).map(({ validation_loss }) => validation_loss),
      [0.2, 0.1],
    )
    assert.ok(records.filter(isValidation).every(record => !('loss' in record)))
  })

  it('continues from its newest checkpoint with the records cut to it', () => {
    const directory = start()
    const run = open(directory)
    assert.equal(run.startStep, 20)
    assert.equal([...readMetrics(directory)].at(-1)!.step, 20)
    train(run, 40)
    run.close()
    const steps = [...readMetrics(directory)].filter(isTraining).map(({ step }) => step)
    assert.deepEqual(
      steps,
      Array.from({ length: 40 }, (_, i) => i + 1),
    )
    assert.deepEqual(
      [...readEvents(directory)].map(({ event, step }) => [event, step]),
      [['resumed', 20]],
    )
    refuses(
      () => open(directory),
      `run directory ${directory.replace(root, 'ROOT')} holds a finished run: 40 of 40 steps are done`,
    )
  })

  it('begins again where it died before its first checkpoint', () => {
    const directory = start(7)
    const run = open(directory)
    assert.deepEqual([run.startStep, [...readMetrics(directory)].length], [0, 0])
    run.close()
  })

  it('falls back to an older checkpoint where the newest is damaged, and says so', () => {
    const directory = start(35)
    const damaged = join(directory, 'checkpoints', '30', 'model.safetensors')
    truncateSync(damaged, 10)
    const run = open(directory)
    assert.equal(run.startStep, 20)
    train(run, 40)
    run.close()
    const [event] = readEvents(directory)
    assert.deepEqual([event!.step, event!.event], [20, 'damaged_checkpoint'])
    assert.match(String(event!.reason), /30\/model\.safetensors is truncated: found 10 bytes, wanted \d+$/)
    assert.deepEqual(readdirSync(join(directory, 'checkpoints')).sort(), ['.damaged-30', '30', '40'])
    const steps = [...readMetrics(directory)].filter(isTraining).map(({ step }) => step)
    assert.deepEqual(
      steps,
      Array.from({ length: 40 }, (_, i) => i + 1),
    )
  })

  it('takes an empty directory and one that died before its config was written', () => {
    const directory = fresh()
    mkdirSync(directory)
    writeFileSync(join(directory, 'config.json.partial'), '{"for')
    open(directory).close()
    assert.deepEqual(readConfig(directory), config)
  })

  it('may be resumed elsewhere, which is recorded', () => {
    const directory = start()
    const device = { backend: 'cpu', level: 'avx512', threads: 1 }
    open(directory, configWith('threads=1', 'level=avx512'), { ...origin, device }).close()
    assert.deepEqual([...readEvents(directory)].at(-1), {
      step: 20,
      event: 'placement_changed',
      level: 'avx2 -> avx512',
      threads: '2 -> 1',
    })
  })

  it('gets the next free number', () => {
    const runs = join(root, 'numbered', 'runs')
    assert.equal(createRunDirectory('tiny', runs), join(runs, 'tiny-001'))
    assert.equal(createRunDirectory('tiny', runs), join(runs, 'tiny-002'))
    mkdirSync(join(runs, 'tiny-0041'))
    mkdirSync(join(runs, 'tiny-dense-009'))
    assert.equal(createRunDirectory('tiny', runs), join(runs, 'tiny-042'))
    assert.equal(createRunDirectory('tiny-dense', runs), join(runs, 'tiny-dense-010'))
  })
})

describe('a directory that cannot be used', () => {
  it('holds a run of another config or text', () => {
    const directory = start()
    const named = directory.replace(root, 'ROOT')
    refuses(
      () => open(directory, configWith('optimizer.lr=0.002')),
      `run directory ${named} holds a run of another config: optimizer.lr: 0.001 there, 0.002 here`,
    )
    refuses(
      () => open(directory, configWith('recipe=nvfp4', 'steps=50')),
      `run directory ${named} holds a run of another config: steps: 40 there, 50 here`,
    )
    refuses(
      () => open(directory, config, { ...origin, corpus: 'beef' }),
      `run directory ${named}: the text of data.files is not the one that the run began with`,
    )
    assert.equal([...readMetrics(directory)].filter(isTraining).length, 25)
  })

  it('is of another format version', () => {
    const directory = start()
    const path = join(directory, 'config.json')
    writeFileSync(path, readFileSync(path, 'utf8').replace('"format": 1', '"format": 2').replace('0.1.0', '7.0.0'))
    refuses(
      () => open(directory),
      `${path.replace(root, 'ROOT')}: found format 2, wanted 1: the run was written by halfbyte 7.0.0`,
    )
    writeFileSync(path, '{"format": 1, "ste')
    refuses(() => open(directory), `${path.replace(root, 'ROOT')} is not JSON`)
  })

  it('holds something else', () => {
    const directory = fresh()
    const named = directory.replace(root, 'ROOT')
    refuses(() => readConfig(directory), `${named} is not a run directory: it does not exist`)
    mkdirSync(directory)
    refuses(() => readConfig(directory), `${named} is not a run directory: it has no config.json`)
    writeFileSync(join(directory, 'thesis.tex'), '')
    refuses(() => open(directory), `run directory ${named} holds no run, but is not empty: it has thesis.tex`)
    assert.deepEqual(readdirSync(directory), ['thesis.tex'])
    refuses(() => open(join(directory, 'thesis.tex')), `run directory ${named}/thesis.tex is a file`)
    refuses(
      () => open(join(directory, 'thesis.tex', 'run')),
      `run directory ${named}/thesis.tex/run cannot be written: ENOTDIR: not a directory`,
    )
  })

  it('is not writable', t => {
    const directory = fresh()
    mkdirSync(directory)
    chmodSync(root, 0o755)
    chmodSync(directory, 0o555)
    const script = `
      import { openRun, createRunDirectory } from ${JSON.stringify(new URL('../src/run/open.js', import.meta.url).href)}
      const [directory, config, origin] = JSON.parse(process.argv[1])
      for (const attempt of [() => openRun(directory, config, origin), () => openRun(directory + '/new', config, origin), () => createRunDirectory('tiny', directory)])
        try { attempt(); console.log('opened') } catch (error) { console.log(error.message) }`
    const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', script, JSON.stringify([directory, config, origin])],
      { encoding: 'utf8', cwd: '/', ...nobody },
    )
    if (/EACCES|permission/.test(stderr)) return t.skip('another user cannot read this checkout')
    const named = (path: string) => `run directory ${path} cannot be written: EACCES: permission denied`
    assert.deepEqual(stdout.trim().split('\n'), [named(directory), named(`${directory}/new`), named(directory)], stderr)
  })
})

describe('the lock of a run', () => {
  const lock = (directory: string, owner: object | string) =>
    writeFileSync(join(directory, 'lock'), typeof owner === 'string' ? owner : JSON.stringify(owner))

  it('keeps a second process out, and nobody after that', () => {
    const directory = start()
    const run = open(directory)
    refuses(
      () => open(directory),
      `${directory.replace(root, 'ROOT')} is being written by process ${process.pid}; wait until it ends, or stop it`,
    )
    run.close()
    const last = open(directory)
    lock(directory, { pid: 12, host: 'elsewhere', started: '1' })
    last.close()
    assert.ok(existsSync(join(directory, 'lock')), 'the lock of another is not given back')
    rmSync(join(directory, 'lock'))
    open(directory).close()
    assert.ok(!existsSync(join(directory, 'lock')))
  })

  it('of a process that died is taken over', () => {
    const directory = start()
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    for (const owner of [
      { pid, host: hostname(), started: '1' },
      { pid: process.pid, host: hostname(), started: '1' },
      '',
      '{"pid"',
    ]) {
      lock(directory, owner)
      const run = open(directory)
      assert.equal(JSON.parse(readFileSync(join(directory, 'lock'), 'utf8')).pid, process.pid)
      run.close()
      assert.deepEqual(
        readdirSync(directory).filter(name => name.startsWith('lock')),
        [],
      )
    }
  })

  it('of another machine is respected, and says what to do', () => {
    const directory = start()
    lock(directory, { pid: 12, host: 'elsewhere', started: '1' })
    const named = directory.replace(root, 'ROOT')
    refuses(
      () => open(directory),
      `${named} is being written by process 12 on elsewhere; if that has ended, delete ${named}/lock`,
    )
  })
})
