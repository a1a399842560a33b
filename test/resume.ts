import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { Stream } from '../src/formats/philox.ts'
import { listCheckpoints } from '../src/run/checkpoint.ts'
import { names } from '../src/run/layout.ts'
import { readEvents, readMetrics, readNumerics } from '../src/run/read.ts'
import { type Ended, startCli } from './training.ts'

/** Interrupting real training processes, and comparing what they leave with a run that nobody disturbed. */

/** Records without what a clock decides. */
export const recordsOf = (run: string) =>
  [...readMetrics(run)].map(({ tokens_per_second: _, ...record }) => record as Readonly<Record<string, unknown>>)

/** What happened to a run's process or files, and not in it. */
const interruptions = ['resumed', 'placement_changed', 'damaged_checkpoint']
const eventsOf = (run: string) => [...readEvents(run)].filter(({ event }) => !interruptions.includes(event))

/** Asserts that weights, moments and records are the same to the last bit. */
export function sameRun(got: string, want: string): void {
  assert.deepEqual(recordsOf(got), recordsOf(want))
  assert.deepEqual([...readNumerics(got)], [...readNumerics(want)])
  assert.deepEqual(eventsOf(got), eventsOf(want))
  const steps = listCheckpoints(want)
  assert.deepEqual(listCheckpoints(got), steps)
  for (const step of steps)
    for (const file of ['model.safetensors', 'optimizer.safetensors']) {
      const [a, b] = [got, want].map(run => readFileSync(join(run, 'checkpoints', String(step), file)))
      assert.ok(a!.equals(b!), `${file} of step ${step} differs`)
    }
}

/** Records written so far: cheap to ask, so that a process can be met at a step. */
const lines = (run: string): number => {
  const path = join(run, 'metrics.jsonl')
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
}

const isSaving = (run: string): boolean => {
  const folder = join(run, 'checkpoints')
  return existsSync(folder) && readdirSync(folder).some(name => name.startsWith('.'))
}

/** Starts the command line and waits until `met`; fails if the process ends before. */
export async function startUntil(args: readonly string[], met: () => boolean) {
  const { child, ended } = startCli(args)
  let over: Ended | undefined
  ended.then(result => {
    over = result
  })
  while (!met() && !over) await setTimeout(1)
  assert.equal(over, undefined, `the process ended before it could be stopped: ${over?.stderr}${over?.stdout}`)
  return { child, ended }
}

/** As `startUntil`, until the run has `count` records. */
export const startUntilRecords = (args: readonly string[], run: string, count: number) =>
  startUntil(args, () => lines(run) >= count)

/**
 * Kills a run `kills` times at moments that the seed decides: first while the process starts and makes the run, then spread over the steps
 * up to `last`, every third in the middle of saving and the others so many milliseconds after a step. Each process continues with another
 * number of threads, by `train` and, where there is a run already, `resume` in turn. Between `last` and the end of the run lies the time
 * for which this process may be held up before a kill comes too late.
 */
export async function killAndResume(config: string, run: string, kills: number, last: number, seed: number) {
  const random = new Stream(seed, 0)
  const command = (attempt: number): string[] => {
    const threads = `threads=${1 + (attempt % 3)}`
    const isBegun = existsSync(join(run, names.config))
    return attempt % 2 === 1 && isBegun ? ['resume', run, threads] : ['train', config, threads, '--run', run]
  }
  for (let kill = 0; kill < kills; kill++) {
    const target = Math.floor((last * (kill - 1 + random.uniform())) / (kills - 1))
    const { child, ended } = await startUntilRecords(command(kill), run, target)
    if (kill === 0) await setTimeout(random.below(500))
    else if (kill % 3 === 1) while (!isSaving(run) && child.exitCode === null) await setImmediate()
    else await setTimeout(random.below(40))
    child.kill('SIGKILL')
    const { signal, stderr } = await ended
    assert.equal(signal, 'SIGKILL', `the process ended before kill ${kill}: ${stderr}`)
  }
  const { code, stderr } = await startCli(command(kills)).ended
  assert.equal(code, 0, stderr)
}
