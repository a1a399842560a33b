/** A mistake of whoever runs the program, told in one sentence without a stack: exit code 1 if the work failed, 2 if the command was wrong. */
export class UserError extends Error {
  readonly exitCode: 1 | 2

  constructor(message: string, exitCode: 1 | 2 = 1) {
    super(message)
    this.name = 'UserError'
    this.exitCode = exitCode
  }
}
