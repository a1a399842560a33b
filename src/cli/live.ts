import { createColors } from 'picocolors'
import { formatCount } from '../run/quantities.ts'
import { canRedraw, clearLine, type DisplayStream, type Environment, redrawEvery, widthOf } from './terminal.ts'

/**
 * What training looks like while it runs: on a terminal one line that is redrawn in place, elsewhere plain lines.
 *
 *   148/400  loss 2.341  12.3k tokens/s  0:41 left  ▇▆▅▄▃▃▂▂▁▁
 */

export interface DisplayOptions {
  /** Steps of the whole run. */
  readonly steps: number
  readonly tokensPerStep: number
  readonly stream: DisplayStream
  /** Whether to redraw one line; default: the stream is a terminal that can, and this is no CI job. */
  readonly isTTY?: boolean
  /** Put before the steps where this is one run of several: `3/9 nvfp4 seed 2`. */
  readonly label?: string
  /** Seconds that the runs after this one are expected to take; undefined: unknown. */
  readonly secondsAfter?: () => number | undefined
  /** Milliseconds; default: the system's monotonic clock. */
  readonly now?: () => number
  /** Default: the process's. */
  readonly environment?: Environment
}

export interface Progress {
  /** Steps done, counted from 1. */
  readonly step: number
  /** Nats per token. */
  readonly loss: number
  readonly tokensPerSecond: number
  readonly lr: number
  readonly gradNorm: number
}

export interface Display {
  update(progress: Progress): void
  /** A line of its own that stays: an event, a validation loss. */
  note(text: string): void
  /** Draws the last state and gives the cursor back. Nothing is drawn after it. */
  done(): void
}

/** Steps of a process whose speed says nothing of the rest, because code is still being compiled. */
const warmingSteps = 5
const plainEvery = 60_000
const blocks = '▁▂▃▄▅▆▇█'

/** 41 → `0:41`, 3725 → `1:02:05`. */
export function formatDuration(seconds: number): string {
  const total = Math.max(0, Math.round(seconds))
  const two = (value: number) => String(value).padStart(2, '0')
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60]
  return hours > 0 ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`
}

/** One block character per value, the smallest lowest; a value that is not finite is a blank. */
export function sparkline(values: readonly number[]): string {
  const finite = values.filter(Number.isFinite)
  const low = Math.min(...finite)
  const range = Math.max(...finite) - low
  return values
    .map(value => {
      if (!Number.isFinite(value)) return ' '
      return blocks[range > 0 ? Math.round(((value - low) / range) * (blocks.length - 1)) : 0]
    })
    .join('')
}

/** The mean of every group of steps, in a bounded number of groups: when they are full, neighbours are merged. */
export class History {
  readonly #limit: number
  #group = 1
  #means: number[] = []
  #sum = 0
  #count = 0

  /** @param limit an even number of groups. */
  constructor(limit: number) {
    this.#limit = limit
  }

  add(value: number): void {
    this.#sum += value
    if (++this.#count < this.#group) return
    this.#means.push(this.#sum / this.#count)
    this.#sum = this.#count = 0
    if (this.#means.length < this.#limit) return
    this.#means = Array.from({ length: this.#limit / 2 }, (_, i) => (this.#means[2 * i]! + this.#means[2 * i + 1]!) / 2)
    this.#group *= 2
  }

  /** At most `columns` means, oldest first. */
  resample(columns: number): number[] {
    const all = this.#count > 0 ? [...this.#means, this.#sum / this.#count] : this.#means
    const length = Math.min(columns, all.length)
    return Array.from({ length }, (_, i) => {
      const part = all.slice(Math.floor((i * all.length) / length), Math.floor(((i + 1) * all.length) / length))
      return part.reduce((sum, value) => sum + value, 0) / part.length
    })
  }
}

const hideCursor = '\x1b[?25l'
const showCursor = '\x1b[?25h'

export function createDisplay(options: DisplayOptions): Display {
  const { steps, tokensPerStep, stream, now = () => performance.now(), environment = process.env } = options
  const live = options.isTTY ?? canRedraw(stream, environment)
  const colors = createColors(live && !environment.NO_COLOR)
  const history = new History(256)
  const plainSteps = Math.max(1, Math.ceil(steps / 20))
  let latest: Progress | undefined
  /** Tokens per second, smoothed: steps whose numerics are sampled take longer than the others. */
  let speed = 0
  let seen = 0
  let drawnAt = Number.NEGATIVE_INFINITY
  let drawnStep = 0
  let finished = false

  const secondsLeft = (step: number) => (seen > warmingSteps ? ((steps - step) * tokensPerStep) / speed : undefined)
  const timeLeft = (step: number) => {
    const seconds = secondsLeft(step)
    return seconds === undefined ? '?' : formatDuration(seconds)
  }
  /** Time left of all runs, where there are several. */
  const overall = (step: number): string[] => {
    const [seconds, after] = [secondsLeft(step), options.secondsAfter?.()]
    return seconds === undefined || after === undefined ? [] : [`${formatDuration(seconds + after)} in all`]
  }
  const label = options.label === undefined ? [] : [options.label]

  const plainLine = ({ step, loss, lr, gradNorm }: Progress) =>
    [
      ...label,
      `step ${String(step).padStart(String(steps).length)}/${steps}`,
      `loss ${loss.toFixed(4)}`,
      `lr ${lr.toExponential(2)}`,
      `grad ${gradNorm.toPrecision(3)}`,
      `${formatCount(speed)} tokens/s`,
      `${timeLeft(step)} left`,
      ...overall(step),
    ].join('  ')

  /** What fits of the parts, in their order; the sparkline takes the rest of the width. */
  const liveLine = ({ step, loss }: Progress) => {
    const width = Math.max(1, widthOf(stream) - 1)
    const parts = [
      ...label.map(text => ({ text, paint: colors.bold })),
      { text: `${String(step).padStart(String(steps).length)}/${steps}`, paint: colors.dim },
      { text: `loss ${loss.toFixed(3)}`, paint: colors.bold },
      { text: `${formatCount(speed)} tokens/s`, paint: String },
      { text: `${timeLeft(step)} left`, paint: String },
      ...overall(step).map(text => ({ text, paint: String })),
    ]
    let used = 0
    const shown: string[] = []
    for (const { text, paint } of parts) {
      const needed = text.length + (shown.length > 0 ? 2 : 0)
      if (used + needed > width) break
      used += needed
      shown.push(paint(text))
    }
    const room = Math.min(60, width - used - 2)
    if (shown.length === parts.length && room >= 4) shown.push(colors.cyan(sparkline(history.resample(room))))
    return shown.join('  ')
  }

  const draw = () => {
    if (!latest) return
    stream.write((drawnAt === Number.NEGATIVE_INFINITY ? hideCursor : '') + clearLine + liveLine(latest))
    drawnAt = now()
    drawnStep = latest.step
  }
  const giveBack = () => {
    if (drawnAt !== Number.NEGATIVE_INFINITY) stream.write(`\n${showCursor}`)
  }
  if (live) process.once('exit', giveBack)

  return {
    update(progress) {
      latest = progress
      history.add(progress.loss)
      speed = ++seen <= warmingSteps + 1 ? progress.tokensPerSecond : 0.9 * speed + 0.1 * progress.tokensPerSecond
      if (live) {
        if (now() - drawnAt >= redrawEvery) draw()
      } else if (
        drawnStep === 0 ||
        progress.step % plainSteps === 0 ||
        progress.step === steps ||
        now() - drawnAt >= plainEvery
      ) {
        stream.write(plainLine(progress) + '\n')
        drawnAt = now()
        drawnStep = progress.step
      }
    },
    note(text) {
      stream.write(`${live && drawnAt !== Number.NEGATIVE_INFINITY ? clearLine : ''}${text}\n`)
      if (live && !finished) draw()
    },
    done() {
      if (finished) return
      finished = true
      if (!live) return
      process.removeListener('exit', giveBack)
      if (latest && drawnStep !== latest.step) draw()
      giveBack()
    },
  }
}
