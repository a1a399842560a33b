/** What the command line says about an error, and the exit code: 1 the work failed, 2 the command was wrong. */
export interface Failure {
  readonly message: string
  readonly exitCode: 1 | 2
  /** A defect of halfbyte rather than something the user can mend. */
  readonly unexpected: boolean
}

/** What the system's error codes mean to someone who is training a model. */
const systemErrors: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left on the disk',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission is denied',
  EPERM: 'the operation is not permitted',
  ENOENT: 'there is no such file or directory',
  ENOTDIR: 'a part of the path is not a directory',
  EISDIR: 'this is a directory, a file is wanted',
  EMFILE: 'too many files are open',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'its links lead back to themselves',
  EIO: 'the device cannot be read or written',
  EBUSY: 'it is in use',
}

/** Escapes that would end the line or disturb a terminal; what the compiler says may have lines of its own. */
const printable = (text: string): string =>
  text.replace(/[^\P{Cc}\n]/gu, char => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)

/**
 * Errors that carry `exitCode` (UserError, and what backends throw for a missing compiler) are the user's to mend, as are the
 * system's refusals of a file; anything else is a defect.
 */
export function describeFailure(error: unknown): Failure {
  if (!(error instanceof Error)) return { message: String(error), exitCode: 1, unexpected: true }
  const { exitCode, code, path, syscall } = error as Error &
    Partial<Record<keyof NodeJS.ErrnoException | 'exitCode', unknown>>
  if (exitCode === 1 || exitCode === 2) return { message: error.message, exitCode, unexpected: false }
  const isOfSystem = typeof code === 'string' && typeof syscall === 'string'
  const said = isOfSystem ? error.message.replace(/^\w+: |, .*$/g, '') : undefined
  const meaning = typeof code === 'string' ? (systemErrors[code] ?? said) : undefined
  if (meaning) {
    const place = typeof path === 'string' ? `${path}: ` : ''
    return { message: `${place}${meaning} (${code})`, exitCode: 1, unexpected: false }
  }
  return { message: error.message || error.name, exitCode: 1, unexpected: true }
}

/** The lines printed to stderr for a failure; `trace` adds where it happened. */
export function failureLines(error: unknown, trace: boolean): string[] {
  const { message, unexpected } = describeFailure(error)
  const stack = trace && error instanceof Error && error.stack ? error.stack.split('\n').slice(1) : []
  if (!unexpected) return [`halfbyte: ${printable(message)}`, ...stack]
  const advice = trace
    ? []
    : ['(a defect of halfbyte: please report it with the output of HALFBYTE_DEBUG=1 and `halfbyte doctor`)']
  return [`halfbyte: unexpected error: ${printable(message.split('\n')[0]!)}`, ...advice, ...stack]
}
