import { canRedraw, clearLine, redrawEvery, widthOf } from './terminal.ts'

/** One line of a terminal that is written over; where nobody looks, nothing is written. */
export interface StatusLine {
  /** Shows a text, at most ten times a second. */
  show(text: string): void
  /** Leaves the line empty. */
  clear(): void
}

export function createStatusLine(stream: NodeJS.WriteStream): StatusLine {
  const isLive = canRedraw(stream, process.env)
  let drawnAt = Number.NEGATIVE_INFINITY
  return {
    show(text) {
      if (!isLive || performance.now() - drawnAt < redrawEvery) return
      drawnAt = performance.now()
      stream.write(clearLine + text.slice(0, Math.max(1, widthOf(stream) - 1)))
    },
    clear() {
      if (drawnAt === Number.NEGATIVE_INFINITY) return
      stream.write(clearLine)
      drawnAt = Number.NEGATIVE_INFINITY
    },
  }
}
