import { type SpawnSyncReturns, spawnSync } from 'node:child_process'

const main = new URL('../src/cli/main.js', import.meta.url).href
const script = `import { run } from ${JSON.stringify(main)}; await run(process.argv.slice(1))`

/** Arguments for node that run the command line of this very build. */
export const cliArguments = (args: readonly string[]): string[] => ['--input-type=module', '-e', script, '--', ...args]

/** Runs the command line in a process of its own, as a user would. */
export function runCli(
  args: readonly string[],
  { cwd = process.cwd(), env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): SpawnSyncReturns<string> {
  const environment = { ...process.env, NO_COLOR: '1', ...env }
  return spawnSync(process.execPath, cliArguments(args), { cwd, env: environment, encoding: 'utf8' })
}
