import { type DisplayStream, formatDuration } from './live.ts'

/**
 * A bar for work whose size is known: on a terminal one line that is redrawn and goes away at the end, elsewhere a line now and then.
 *
 *   without Hadamard rotation  ██████░░░░░░░░░░░░░░  31 %  0:41 left
 */
export interface ProgressBar {
  update(done: number, total: number, what: string): void
  /** Leaves the terminal as it was. */
  done(): void
}

const redrawEvery = 100
const plainEvery = 15_000
const cells = 20
const clearLine = '\r\x1b[2K'

export function createProgressBar(
  stream: DisplayStream = process.stderr,
  now: () => number = () => performance.now(),
  environment: Readonly<Record<string, string | undefined>> = process.env,
): ProgressBar {
  const live = stream.isTTY === true && !environment.CI && environment.TERM !== 'dumb'
  const started = now()
  let drawn = live ? Number.NEGATIVE_INFINITY : started
  let shown = false

  return {
    update(done, total, what) {
      const time = now()
      if (total === 0 || time - drawn < (live ? redrawEvery : plainEvery)) return
      drawn = time
      shown = true
      const share = Math.min(1, done / total)
      const left = done > 0 ? `${formatDuration(((time - started) / 1000) * (1 / share - 1))} left` : '? left'
      const percent = `${Math.floor(100 * share)} %`.padStart(5)
      const full = Math.round(cells * share)
      const bar = '█'.repeat(full) + '░'.repeat(cells - full)
      const width = Math.max(0, (stream.columns ?? 80) - cells - 20)
      stream.write(
        live
          ? `${clearLine}${what.slice(0, width)}  ${bar} ${percent}  ${left}`
          : `${what}: ${percent.trim()}, ${left}\n`,
      )
    },
    done() {
      if (live && shown) stream.write(clearLine)
    },
  }
}
