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
