/**
 * Something that this machine lacks: a compiler, an instruction level, memory. The message says what and what to do; the
 * command line shows it alone, and ends with `exitCode`.
 */
export class UnavailableError extends Error {
  readonly exitCode = 1
}
