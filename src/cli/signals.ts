import { UserError } from '../config/errors.ts'

/** Aborts at the first SIGINT or SIGTERM; the second ends the process as usual. `release` gives the signals back. */
export function stopOnSignals(): { signal: AbortSignal; release(): void } {
  const controller = new AbortController()
  const names = ['SIGINT', 'SIGTERM'] as const
  const stop = () => {
    release()
    controller.abort()
  }
  const release = () => {
    for (const name of names) process.off(name, stop)
  }
  for (const name of names) process.on(name, stop)
  return { signal: controller.signal, release }
}

/**
 * Work that a signal stops and that takes back what it has begun to write.
 * @param done called at its end, however it ends.
 * @throws UserError that says so if it was stopped
 */
export async function stoppable<T>(work: (signal: AbortSignal) => Promise<T>, done: () => void = () => {}): Promise<T> {
  const { signal, release } = stopOnSignals()
  try {
    return await work(signal)
  } catch (error) {
    if (!signal.aborted) throw error
    throw new UserError('stopped; nothing is left behind')
  } finally {
    done()
    release()
  }
}
