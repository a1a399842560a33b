import type { Command } from 'commander'
import { createColors } from 'picocolors'
import { libraryDirectories } from '../backends/cuda/libraries.ts'
import {
  type Check,
  checkCache,
  checkCompiler,
  checkDisk,
  checkGpu,
  checkKernels,
  checkLibraries,
  checkMemory,
  checkNode,
  checkProcessor,
  checkThreads,
} from './machine.ts'

/** Without these nothing can train, on any backend. */
const vital = new Set(['node', 'disk'])

/** @param libraries a folder of NVIDIA's libraries, searched first. */
async function examine(libraries?: string): Promise<Check[]> {
  const gpu = checkGpu()
  const directories = [...(libraries === undefined ? [] : [libraries]), ...libraryDirectories()]
  return [
    checkNode(),
    checkProcessor(),
    checkThreads(),
    checkMemory(),
    checkCompiler(),
    checkCache(),
    await checkKernels(),
    checkDisk(),
    gpu,
    ...checkLibraries(gpu.state === 'ok', directories),
  ]
}

/** 1 if nothing can train at all, else 0: what is missing may only make it slow. */
export const verdict = (checks: readonly Check[]): 0 | 1 =>
  checks.some(({ name, state }) => state === 'missing' && vital.has(name)) ? 1 : 0

/** One line a check, what to do below it. */
export function report(checks: readonly Check[], colors = createColors(false)): string {
  const paint = { ok: colors.green, absent: colors.dim, missing: colors.red }
  const width = Math.max(...checks.map(({ name }) => name.length))
  return checks
    .map(({ name, state, found, advice }) => {
      const line = `${paint[state](state.padEnd(7))}  ${name.padEnd(width)}  ${found}`
      return advice ? `${line}\n${' '.repeat(11 + width)}→ ${advice}` : line
    })
    .join('\n')
}

export function register(program: Command): void {
  program
    .command('doctor')
    .description(
      'Say what this machine has for training: processor and instruction level, compiler, native kernels (built if they are not yet), memory, disk, GPU and CUDA libraries.',
    )
    .option(
      '--libraries <folder>',
      "a folder with NVIDIA's libraries, searched first, as the config's key libraries names it",
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Exit code 1 if nothing can train on this machine, else 0.

Examples:
  halfbyte doctor
  CXX=clang++ halfbyte doctor      with another C++ compiler
  halfbyte doctor --json`,
    )
    .action(async ({ json, libraries }: { json?: boolean; libraries?: string }) => {
      const checks = await examine(libraries)
      const trains = verdict(checks) === 0
      const colors = createColors(process.stdout.isTTY && !process.env.NO_COLOR)
      process.stdout.write((json ? JSON.stringify({ trains, checks }, null, 2) : report(checks, colors)) + '\n')
      process.exitCode = verdict(checks)
    })
}
