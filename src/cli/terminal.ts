/** What lines that are redrawn in place share. */

/** The part of a writable stream that is used; `columns` is there on a terminal. */
export interface DisplayStream {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

/** Of a process. NO_COLOR, CI and TERM are read. */
export type Environment = Readonly<Record<string, string | undefined>>

/** Whether to redraw one line: the stream is a terminal that can, and this is no CI job. */
export const canRedraw = ({ isTTY }: DisplayStream, { CI, TERM }: Environment): boolean =>
  isTTY === true && !CI && TERM !== 'dumb'

/** Columns of a terminal; some do not say. */
export const widthOf = ({ columns }: DisplayStream): number => columns || 80

/** Milliseconds from one drawing to the next. */
export const redrawEvery = 100

export const clearLine = '\r\x1b[2K'
