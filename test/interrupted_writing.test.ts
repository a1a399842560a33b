import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { writingTensors } from '../src/cli/quantized_file.ts'
import { stoppable } from '../src/cli/signals.ts'
import { UserError } from '../src/config/errors.ts'
import { branchRun } from '../src/run/branch.ts'
import { inTurns, type Progress, replaceFile, wantWritable } from '../src/run/files.ts'
import { openRun } from '../src/run/open.ts'
import { type Origin, readEvents } from '../src/run/read.ts'
import { smallConfig } from './training.ts'

/** Commands that write are stopped in their middle: what was there stays, nothing half written does. */

const root = mkdtempSync(join(tmpdir(), 'halfbyte-stop-'))
after(() => rmSync(root, { recursive: true, force: true }))
const parent = join(root, 'parent')
const config = smallConfig(root, 'steps=8')
const origin: Origin = { halfbyte: '0.1.0', device: { backend: 'cpu' }, corpus: 'c0ffee' }

before(() => {
  const run = openRun(parent, config, origin)
  run.metrics({ step: 2, loss: 5, tokens: 2, lr: 1, grad_norm: 1, tokens_per_second: 1 })
  const read = (_: number, into: { fill(value: number): unknown }) => into.fill(1)
  const tensors = ['a', 'b'].map(name => ({ name, dtype: 'f32' as const, shape: [64], read }))
  run.save({ model: tensors, optimizer: tensors }, { step: 2, seed: 1, tokens: 2 })
  run.close()
})

/** Stands for a user who stops the work once `what` is being done: the loop has its turn after each piece. */
const stopsAt =
  (what: RegExp): Progress =>
  (_, __, doing) => {
    if (what.test(doing)) process.emit('SIGINT')
    const until = performance.now() + 60
    while (performance.now() < until);
  }

const tensors = new Map(
  ['a', 'b'].map(name => [name, { dtype: 'F32' as const, shape: [4], data: new Float32Array(4) }]),
)

describe('writing that is stopped', () => {
  const works: [name: string, at: RegExp, work: (out: string, at: Progress, signal: AbortSignal) => Promise<void>][] = [
    ['branch, while it checks', /^checking/, (out, progress, signal) => branch(out, progress, signal)],
    ['branch, while it copies', /^copying/, (out, progress, signal) => branch(out, progress, signal)],
    [
      'a file of tensors',
      /^writing/,
      (out, progress, signal) => inTurns(writingTensors(out, tensors, {}, progress), signal),
    ],
  ]
  const branch = (out: string, progress: Progress, signal: AbortSignal) =>
    branchRun(parent, 2, out, { ...config, recipe: 'bf16' }, origin, { progress, signal })

  for (const [name, at, work] of works)
    it(`${name}: leaves nothing behind, and says so`, async () => {
      const place = mkdtempSync(join(root, 'place-'))
      await assert.rejects(
        stoppable(signal => work(join(place, 'out'), stopsAt(at), signal)),
        new UserError('stopped; nothing is left behind'),
      )
      assert.deepEqual(readdirSync(place), [])
      await work(join(place, 'out'), () => {}, new AbortController().signal)
      assert.deepEqual(readdirSync(place), ['out'])
    })

  it('a file of tensors: leaves the older one', async () => {
    const place = mkdtempSync(join(root, 'place-'))
    const out = join(place, 'out')
    writeFileSync(out, 'older')
    await assert.rejects(
      stoppable(signal => inTurns(writingTensors(out, tensors, {}, stopsAt(/./)), signal)),
      /^UserError: stopped/,
    )
    assert.deepEqual(readdirSync(place), ['out'])
    assert.equal(readFileSync(out, 'utf8'), 'older')
  })

  it('an error of its own, or none, is not called a stop; listeners are gone', async () => {
    const before = process.listenerCount('SIGINT')
    await assert.rejects(
      stoppable(async () => {
        throw new Error('of its own')
      }),
      /^Error: of its own$/,
    )
    assert.equal(await stoppable(async () => 7), 7)
    assert.equal(process.listenerCount('SIGINT'), before)
  })
})

describe('a branch', () => {
  it('has the files of its checkpoint, the records and an event', async () => {
    const out = join(root, 'branch')
    await branchRun(parent, 2, out, { ...config, recipe: 'bf16' }, origin)
    const files = ['model.safetensors', 'optimizer.safetensors', 'state.json']
    for (const name of [...files.map(name => join('checkpoints', '2', name)), 'metrics.jsonl'])
      assert.deepEqual(readFileSync(join(out, name)), readFileSync(join(parent, name)), name)
    assert.deepEqual([...readEvents(out)].at(-1), { step: 2, event: 'branched', run: 'parent', recipe: config.recipe })
  })

  it('into a place that cannot be written is refused by name', async () => {
    writeFileSync(join(root, 'file'), '')
    await assert.rejects(
      branchRun(parent, 2, join(root, 'file', 'run'), { ...config, recipe: 'bf16' }, origin),
      new UserError(`run directory ${join(root, 'file', 'run')} cannot be written: ENOTDIR: not a directory`),
    )
    if (process.platform === 'linux')
      await assert.rejects(
        branchRun(parent, 2, '/proc/none/run', { ...config, recipe: 'bf16' }, origin),
        /^UserError: run directory \/proc\/none\/run cannot be written: ENOENT/,
      )
  })
})

describe('a file that is replaced', () => {
  it('keeps the link that leads to it', () => {
    const place = mkdtempSync(join(root, 'place-'))
    writeFileSync(join(place, 'file'), 'old')
    symlinkSync(join(place, 'file'), join(place, 'link'))
    replaceFile(join(place, 'link'), 'new')
    assert.equal(readFileSync(join(place, 'file'), 'utf8'), 'new')
    assert.deepEqual(readdirSync(place).sort(), ['file', 'link'])
  })

  it('is written to where it is a device, which stays one', { skip: process.platform === 'win32' }, () => {
    replaceFile('/dev/null', 'text')
    assert.equal(readFileSync('/dev/null', 'utf8'), '')
  })

  it('is named where the system refuses, before and after the work', () => {
    const folder = join(root, 'folder')
    mkdirSync(folder)
    writeFileSync(join(root, 'plain'), '')
    const none = join(root, 'plain', 'out')
    assert.throws(
      () => replaceFile(folder, ''),
      new UserError(`${folder} cannot be written: EISDIR: illegal operation on a directory`),
    )
    assert.throws(() => replaceFile(none, ''), new UserError(`${none} cannot be written: ENOTDIR: not a directory`))
    assert.throws(
      () => wantWritable(none),
      new UserError(`${none} cannot be written: ${join(root, 'plain')} is no folder`),
    )
    wantWritable(join(root, 'new', 'deep', 'out'))
    assert.deepEqual(readdirSync(folder), [])
  })
})
