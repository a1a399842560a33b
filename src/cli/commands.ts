import type { Command } from 'commander'

/** Adds a command, with its options and action, to the program. */
export type Register = (program: Command) => void

/** A command of the table. Its module is loaded only when it is called, so that `--help` is fast. */
export interface CommandRow {
  readonly name: string
  /** One line for `halfbyte --help`. */
  readonly summary: string
  readonly load: () => Promise<Register>
}

/** Every command, in the order in which a newcomer meets them. */
export const commands: readonly CommandRow[] = [
  {
    name: 'doctor',
    summary: 'what this machine has: processor, compiler, GPU, libraries',
    load: async () => (await import('./doctor.ts')).register,
  },
]
