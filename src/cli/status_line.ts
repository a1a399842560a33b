/** One line of a terminal that is written over; where nobody looks, nothing is written. */
export interface StatusLine {
  /** Shows a text, at most ten times a second. */
  show(text: string): void
  /** Leaves the line empty. */
  clear(): void
}

const redrawEvery = 100

export function createStatusLine(stream: NodeJS.WriteStream): StatusLine {
  const isLive = stream.isTTY === true && !process.env.CI && process.env.TERM !== 'dumb'
  let drawnAt = Number.NEGATIVE_INFINITY
  return {
    show(text) {
      if (!isLive || performance.now() - drawnAt < redrawEvery) return
      drawnAt = performance.now()
      stream.write(`\r\x1b[2K${text.slice(0, Math.max(1, (stream.columns ?? 80) - 1))}`)
    },
    clear() {
      if (drawnAt === Number.NEGATIVE_INFINITY) return
      stream.write('\r\x1b[2K')
      drawnAt = Number.NEGATIVE_INFINITY
    },
  }
}
