/** Text that cannot be trained on, told in one sentence: the user's to mend, exit code 1. */
export class CorpusError extends Error {
  readonly exitCode = 1

  constructor(message: string) {
    super(message)
    this.name = 'CorpusError'
  }
}
