import { Conductor, type PlannedRun } from './compare_arms.ts'
import { stopOnSignals } from './signals.ts'

/**
 * The process that trains one run of a comparison whose runs train side by side (compare_jobs.ts). Runs do not share a process because
 * the threads of a backend belong to the process, and one that faults would take the others with it.
 */

/** What the parent sends, once. */
export interface Job {
  readonly runs: readonly PlannedRun[]
  readonly index: number
  /** Seconds that may be used from now on. */
  readonly budget: number | undefined
}

/** What comes back: any number of the first two, then one of the others. */
export type Reply =
  | { readonly text: string }
  | { readonly changed: string }
  | { readonly ended: 'finished' | 'stopped' | 'budget' }
  | { readonly error: string }

const reply = (message: Reply): void => {
  process.send?.(message)
}

async function work({ runs, index, budget }: Job): Promise<void> {
  const { signal } = stopOnSignals()
  const stream = { write: (text: string) => reply({ text }) }
  const changed = (directory: string) => reply({ changed: directory })
  try {
    const conductor = new Conductor(runs, { stream, signal, budget, changed, alone: false })
    reply({ ended: (await conductor.complete(index)) ?? 'finished' })
  } catch (error) {
    reply({ error: (error as Error).message })
  }
  process.disconnect()
}

process.once('message', work)
