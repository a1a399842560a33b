import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { statusOf } from '../compare/runs.ts'
import { UserError } from '../config/errors.ts'
import { usableProcessors } from '../tensor/processors.ts'
import { type Conducted, type ConductOptions, Conductor, labelOf, type PlannedRun } from './compare_arms.ts'
import type { Job, Reply } from './compare_process.ts'

/**
 * Trains the runs of a comparison side by side, each in a process of its own. Results are those of one after another: a run depends on its
 * config alone, not on the threads it has. A run that branches from another waits for it.
 */

const processFile = fileURLToPath(new URL('./compare_process.js', import.meta.url))

/** The cores of the machine in equal parts, for runs whose config leaves the number of threads open. */
const withThreads = (runs: readonly PlannedRun[], jobs: number): PlannedRun[] => {
  const threads = Math.max(1, Math.floor(usableProcessors() / jobs))
  const placed = <T extends { readonly config: PlannedRun['config'] }>(run: T): T => ({
    ...run,
    config: { ...run.config, threads: run.config.threads ?? threads },
  })
  return runs.map(run => placed({ ...run, ...(run.branch && { branch: placed(run.branch) }) }))
}

/** Whether run `index` must wait: for the run that it branches from, or for another that is making the same beginning. */
function waits(
  runs: readonly PlannedRun[],
  index: number,
  open: ReadonlySet<number>,
  running: ReadonlyMap<number, ChildProcess>,
): boolean {
  const { branch } = runs[index]!
  if (!branch) return false
  const origin = [...open].some(other => other !== index && runs[other]!.directory === branch.directory)
  const sibling = [...running.keys()].some(other => {
    const own = runs[other]!.branch
    return (
      own?.directory === branch.directory && own.step === branch.step && statusOf(runs[other]!.directory) === 'missing'
    )
  })
  return origin || sibling
}

/**
 * @param jobs how many at once.
 * @throws UserError if a process failed for another reason than a diverged run; the others are trained all the same.
 */
export async function conductJobs(
  planned: readonly PlannedRun[],
  jobs: number,
  options: ConductOptions,
): Promise<Conducted> {
  const { stream, signal, budget, changed } = options
  const runs = withThreads(planned, jobs)
  new Conductor(runs, options).check()
  const deadline = budget === undefined ? undefined : performance.now() + 1000 * budget
  const open = new Set(runs.keys())
  const running = new Map<number, ChildProcess>()
  const failures: string[] = []
  let early: Conducted | undefined
  const stop = () => {
    for (const child of running.values()) child.kill('SIGTERM')
  }
  signal.addEventListener('abort', stop)

  const start = (index: number): Promise<void> =>
    new Promise(resolve => {
      const child = fork(processFile, { serialization: 'advanced', execArgv: [] })
      running.set(index, child)
      let told = false
      child.on('message', (reply: Reply) => {
        if ('text' in reply) stream.write(reply.text)
        else if ('changed' in reply) changed(reply.changed)
        else {
          told = true
          if ('error' in reply) failures.push(`${labelOf(runs, index)}: ${reply.error}`)
          else if (reply.ended !== 'finished') early = reply.ended
        }
      })
      child.once('close', (code, killedBy) => {
        if (!told) failures.push(`${labelOf(runs, index)}: its process ended with ${killedBy ?? `exit code ${code}`}`)
        running.delete(index)
        open.delete(index)
        resolve()
      })
      const left = deadline === undefined ? undefined : Math.max(0, (deadline - performance.now()) / 1000)
      child.send({ runs, index, budget: left } satisfies Job)
    })

  const ends = new Set<Promise<void>>()
  try {
    while (open.size > 0) {
      const next =
        early || signal.aborted ? undefined : [...open].find(i => !running.has(i) && !waits(runs, i, open, running))
      if (next !== undefined && running.size < jobs) {
        const end = start(next)
        ends.add(end)
        void end.then(() => ends.delete(end))
      } else if (running.size > 0) await Promise.race(ends)
      else break
    }
  } finally {
    signal.removeEventListener('abort', stop)
  }
  for (const failure of failures) stream.write(`${failure}\n`)
  if (failures.length > 0) throw new UserError(`${failures.length} of ${runs.length} runs failed; ${failures[0]}`)
  return signal.aborted ? 'stopped' : (early ?? 'finished')
}
