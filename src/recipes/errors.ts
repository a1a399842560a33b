/** A recipe that cannot run a model of these sizes, told in one sentence: the user's to mend, exit code 1. */
export class RecipeError extends Error {
  readonly exitCode = 1

  constructor(message: string) {
    super(message)
    this.name = 'RecipeError'
  }
}
