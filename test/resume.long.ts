import assert from 'node:assert/strict'
import { join } from 'node:path'
import { it } from 'node:test'
import { killAndResume, sameRun } from './resume.ts'
import { configFile, startCli, testFolder } from './training.ts'

it('a run that is killed 20 times at random moments ends in the same bits as one that nobody disturbed', async t => {
  const folder = testFolder()
  const config = configFile(folder, `steps=400`, 'checkpoint.every=3', 'validation.every=20')
  const [run, undisturbed] = [join(folder, 'killed'), join(folder, 'undisturbed')]
  const { code, stderr } = await startCli(['train', config, '--run', undisturbed]).ended
  assert.equal(code, 0, stderr)
  const seed = Date.now() % 2 ** 32
  t.diagnostic(`seed ${seed}`)
  await killAndResume(config, run, 20, 240, seed)
  sameRun(run, undisturbed)
})
