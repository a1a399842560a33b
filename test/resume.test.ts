import assert from 'node:assert/strict'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import { listCheckpoints } from '../src/run/checkpoint.ts'
import { readEvents } from '../src/run/read.ts'
import { killAndResume, recordsOf, sameRun, startUntilRecords } from './resume.ts'
import { configFile, startCli, testFolder } from './training.ts'

const folder = testFolder()
const steps = 200
const config = configFile(folder, `steps=${steps}`, 'checkpoint.every=3')
const undisturbed = join(folder, 'undisturbed')

describe('a run that is interrupted', { timeout: 120_000 }, () => {
  before(async () => {
    const { code, stderr } = await startCli(['train', config, '--run', undisturbed]).ended
    assert.equal(code, 0, stderr)
    assert.equal(recordsOf(undisturbed).length, steps + 20)
  })

  it('by kill -9 goes on to the same bits, on any number of threads', async () => {
    const run = join(folder, 'killed')
    await killAndResume(config, run, 4, 60, 11)
    sameRun(run, undisturbed)
    assert.ok([...readEvents(run)].some(({ event }) => event === 'resumed'))
  })

  for (const [signal, again] of [
    ['SIGINT', (run: string) => ['resume', run]],
    ['SIGTERM', (run: string) => ['train', config, '--run', run]],
  ] as const)
    it(`by ${signal} saves, says how to go on, and does so to the same bits`, async () => {
      const run = join(folder, signal)
      const { child, ended } = await startUntilRecords(['train', config, '--run', run], run, 10)
      child.kill(signal)
      const { code, stdout, stderr } = await ended
      assert.deepEqual([code, stderr], [0, ''])
      const [, step] = /\nstopped after step (\d+) of 200; all is saved\. To go on: npx halfbyte resume (\S+)\n$/.exec(
        stdout,
      )!
      assert.equal(listCheckpoints(run).at(-1), Number(step))
      const second = await startCli(again(run)).ended
      assert.equal(second.code, 0, second.stderr)
      assert.match(second.stdout, new RegExp(`going on after step ${step}\n`))
      sameRun(run, undisturbed)
    })
})
