import type { Progress } from '../run/files.ts'
import { formatDuration } from './live.ts'
import { canRedraw, clearLine, type DisplayStream, type Environment, redrawEvery, widthOf } from './terminal.ts'

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

const plainEvery = 15_000
const cells = 20

/** Milliseconds that work must last before it is shown on a terminal, where much of it is over in no time. */
const patience = 500

export interface BarOptions {
  /** Default: standard error. */
  readonly stream?: DisplayStream
  /** Milliseconds; default: the system's monotonic clock. */
  readonly now?: () => number
  /** Default: the process's. */
  readonly environment?: Environment
  /** Milliseconds before a terminal shows anything; default: none. */
  readonly after?: number
}

export function createProgressBar({
  stream = process.stderr,
  now = () => performance.now(),
  environment = process.env,
  after = 0,
}: BarOptions = {}): ProgressBar {
  const live = canRedraw(stream, environment)
  const started = now()
  let drawn = live ? started + after - redrawEvery : started
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
      const width = Math.max(0, widthOf(stream) - cells - 20)
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

export interface WorkDisplay extends Progress {
  /** A sentence for the user, on a line of its own that stays. */
  note(sentence: string): void
  /** Takes away what is shown of work that was given up. */
  done(): void
}

/** Shows one long piece of work after another, each in a bar that goes away when it is done; what is over soon is not shown. */
export function showWork(options: BarOptions = {}): WorkDisplay {
  let bar: ProgressBar | undefined
  let shown: string | undefined
  const end = () => {
    bar?.done()
    bar = undefined
  }
  const show: Progress = (done, total, what) => {
    if (what !== shown) end()
    bar ??= createProgressBar({ after: patience, ...options })
    shown = what
    if (done < total) bar.update(done, total, what)
    else end()
  }
  const note = (sentence: string) => {
    end()
    ;(options.stream ?? process.stderr).write(`halfbyte: ${sentence}\n`)
  }
  return Object.assign(show, { note, done: end })
}
