import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, CommanderError } from 'commander'
import { type CommandRow, commands } from './commands.ts'
import { describeFailure, failureLines } from './errors.ts'

/**
 * The command line. Exit codes: 0 done, 1 the work failed, 2 the command was wrong. A user's mistake is one sentence on
 * stderr; HALFBYTE_DEBUG=1 adds the stack trace.
 */

const examples = `
Examples:
  halfbyte train tiny                        pretrain a small hybrid model in NVFP4 on this machine
  halfbyte train tiny recipe=bf16 seed=2     the same in BF16, with another seed
  halfbyte train tiny --dry-run              sizes, memory and which layers are quantised, then exit
  halfbyte sample runs/tiny-001 --prompt "My fellow citizens"
  halfbyte plot runs/tiny-001 runs/tiny-002 --out loss.svg

"halfbyte help <command>" tells more about one command.`

/** Version of the package that this file belongs to. */
export function packageVersion(): string {
  for (let directory = dirname(fileURLToPath(import.meta.url)); ; directory = dirname(directory))
    try {
      return JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')).version
    } catch (error) {
      if (dirname(directory) === directory) throw error
    }
}

/** The program with every command listed, of which only `wanted` is loaded. */
async function createProgram(wanted: string | undefined, table: readonly CommandRow[]): Promise<Command> {
  const program = new Command('halfbyte')
    .description('Pretrain language models in NVFP4 (4-bit floating point), on any CPU and on NVIDIA GPUs.')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'help for a command')
    .configureHelp({ helpWidth: Math.min(process.stdout.columns || 100, 100) })
    .configureOutput({ outputError: () => {} })
    .addHelpText('after', examples)
    .exitOverride()
  for (const row of table) {
    if (row.name === wanted) (await row.load())(program)
    else program.command(row.name).summary(row.summary).description(row.summary)
    program.commands.find(command => command.name() === row.name)?.summary(row.summary)
  }
  return program
}

/** The command that the arguments name: the first word, or the one after `help`. */
const commandNamed = (args: readonly string[]): string | undefined => {
  const words = args.filter(arg => !arg.startsWith('-'))
  return words[0] === 'help' ? words[1] : words[0]
}

/** `--to: found x, wanted one of hf, gguf`; what is no choice of words says itself what was found. */
const invalid = (_: string, program: string, option: string, value: string, choices?: string): string =>
  `${program}${option}: ${choices ? `found ${JSON.stringify(value)}, wanted one of ` : ''}`

/** Commander's message in this program's form: one line that starts with its name. */
const usageSentence = (message: string): string =>
  message
    .trim()
    .replace(/^error: /, 'halfbyte: ')
    .replace(
      /^(halfbyte: )option '[^']*?(--[\w-]+)[^']*' argument '(.*)' is invalid\. (Allowed choices are )?/s,
      invalid,
    )
    .replace(/\n\(Did you mean (.*)\?\)$/, (_, name) => `, did you mean '${name}'?`)
    .replaceAll('\n', ' ')
    .replace(/[.?]$/, '')

/** Runs one command line; returns its exit code and never throws. A command may set `process.exitCode` itself. */
export async function execute(args: readonly string[], table: readonly CommandRow[] = commands): Promise<number> {
  const wanted = commandNamed(args)
  try {
    const program = await createProgram(wanted, table)
    if (args.every(arg => arg === 'help')) {
      program.outputHelp()
      return 0
    }
    // Asked for help on a command that there is not, Commander prints all it has; as a command, it is refused by name.
    const known = wanted === undefined || table.some(({ name }) => name === wanted)
    await program.parseAsync(known ? (args as string[]) : args.filter(arg => arg !== 'help'), { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0
      const known = table.some(({ name }) => name === wanted) ? ` ${wanted}` : ''
      process.stderr.write(`${usageSentence(error.message)}; "halfbyte help${known}" shows how\n`)
      return 2
    }
    const trace = Boolean(process.env.HALFBYTE_DEBUG)
    process.stderr.write(failureLines(error, trace).join('\n') + '\n')
    return describeFailure(error).exitCode
  }
}

/**
 * Entry of bin/halfbyte.js. A reader that closes its pipe early (`| head`) is no error; what else keeps output from being written, such as a
 * full disk, is told once. Neither ends the work.
 */
export async function run(args: readonly string[]): Promise<void> {
  let unwritten = false
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE' || unwritten) return
      unwritten = true
      process.exitCode = 1
      const { message } = describeFailure(error)
      if (stream === process.stdout) process.stderr.write(`halfbyte: standard output cannot be written: ${message}\n`)
    })
  const code = await execute(args)
  process.exitCode = unwritten ? 1 : code
}
