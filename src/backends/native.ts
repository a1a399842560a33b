import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { arch, homedir, platform, tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { contractsHeader } from '../tensor/contracts.ts'
import type { Kernel } from '../tensor/kernel.ts'
import { usableProcessors } from '../tensor/processors.ts'
import { UnavailableError } from './errors.ts'
import type { Level } from './levels.ts'

/**
 * Compiles the C++ kernels with the system's compiler into one shared library per instruction level.
 *
 * Objects and libraries are cached by the hash of everything that goes into them: source, headers, flags, compiler version, architecture.
 * They are written beside and renamed into place, so that two processes may build at once. Contraction into FMA is off: a
 * kernel that wants an FMA writes it.
 */

const commonFlags = [
  '-std=c++20',
  '-O3',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-fPIC',
  '-pthread',
  '-Wall',
  '-Wno-unknown-pragmas',
]

/** There is no compiler, or it fails. */
export class CompilerError extends UnavailableError {}

const hash = (...parts: string[]): string => {
  const digest = createHash('sha256')
  for (const part of parts) digest.update(part).update('\0')
  return digest.digest('hex').slice(0, 20)
}

export interface Compiler {
  readonly command: string
  /** What stands before all other arguments. */
  readonly options: readonly string[]
  /** The first line of what it says to `--version`. */
  readonly version: string
}

/** `CXX` names the compiler, with options if need be, as `ccache g++`; else the first of the usual names that is there. */
const candidates = (wanted = process.env.CXX?.trim()): string[] => (wanted ? [wanted] : ['c++', 'g++', 'clang++'])

/** What was looked for, in words. */
export const compilersTried = (): string =>
  process.env.CXX?.trim() ? `CXX=${candidates()[0]}` : candidates().join(', ')

/** The C++ compiler, or undefined if there is none. */
export function findCompiler(): Compiler | undefined {
  for (const candidate of candidates()) {
    const [command, ...options] = candidate.split(/\s+/) as [string, ...string[]]
    const { status, stdout } = spawnSync(command, [...options, '--version'], { encoding: 'utf8' })
    if (status === 0) return { command, options, version: stdout.split('\n')[0]! }
  }
  return undefined
}

/** Where compiled kernels are kept: beside the package if that can be written, else in the user's cache directory. */
export function cacheDirectory(root: string): string {
  for (const directory of [
    join(root, 'dist', 'native'),
    join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'halfbyte'),
    join(tmpdir(), 'halfbyte-native'),
  ]) {
    try {
      mkdirSync(directory, { recursive: true })
      rmSync(mkdtempSync(join(directory, 'probe-')), { recursive: true })
      return directory
    } catch {}
  }
  throw new CompilerError(
    'no directory to keep compiled kernels in: neither the package, the user cache nor the temporary directory can be written',
  )
}

const compile = ({ command, options }: Compiler, args: string[]): Promise<void> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, [...options, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
    let errors = ''
    child.stderr.on('data', chunk => (errors += chunk))
    child.on('error', reject)
    child.on('close', code =>
      code === 0 ? resolve() : reject(new CompilerError(`${command} failed:\n${errors.slice(0, 4000)}`)),
    )
  })

function sourcesUnder(directory: string): { sources: string[]; headers: Map<string, string> } {
  const sources: string[] = []
  const headers = new Map<string, string>()
  for (const entry of readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort()) {
    const path = join(directory, entry)
    if (entry.endsWith('.cpp')) sources.push(path)
    else if (entry.endsWith('.h')) headers.set(basename(entry), readFileSync(path, 'utf8'))
  }
  return { sources, headers }
}

/** The text of a source and of all headers that it includes, directly or not; names of headers are unique. */
function textOf(source: string, headers: ReadonlyMap<string, string>): string[] {
  const texts = [readFileSync(source, 'utf8')]
  const seen = new Set<string>()
  for (const text of texts)
    for (const [, name] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      const header = headers.get(basename(name!))
      if (header === undefined || seen.has(name!)) continue
      seen.add(name!)
      texts.push(header)
    }
  return texts
}

/** Deletes what builds that were killed have left behind; none takes an hour. */
function removeAbandoned(cache: string): void {
  for (const name of readdirSync(cache)) {
    const path = join(cache, name)
    const begun = name.startsWith('build-') ? statSync(path, { throwIfNoEntry: false })?.mtimeMs : undefined
    if (begun !== undefined && Date.now() - begun > 3_600_000) rmSync(path, { recursive: true, force: true })
  }
}

/**
 * The path of the library for `level`, built if it is not there.
 * @param sourceDirectory the folder of kernels, searched for .cpp and .h files.
 * @throws CompilerError if there is no compiler or it fails, or where kernels cannot be built: on Windows itself.
 */
export async function buildNative(
  kernels: readonly Kernel[],
  sourceDirectory: string,
  root: string,
  level: Level,
  report: (message: string) => void,
): Promise<string> {
  if (platform() === 'win32')
    throw new CompilerError(
      'the C++ kernels cannot be built on Windows: use the Windows Subsystem for Linux (WSL), or backend=reference',
    )
  const compiler = findCompiler()
  if (!compiler)
    throw new CompilerError(
      `no C++ compiler found (tried ${compilersTried()}): install one (Debian: apt install g++; macOS: xcode-select --install), or use backend=reference`,
    )
  const cache = cacheDirectory(root)
  const { sources, headers } = sourcesUnder(sourceDirectory)
  const contracts = contractsHeader(kernels)
  const flags = [...commonFlags, ...level.flags]
  const common = hash(compiler.version, arch(), [...compiler.options, ...flags].join(' '), contracts)
  const objects = sources.map(source => ({
    source,
    path: join(cache, `${hash(common, ...textOf(source, headers))}.o`),
  }))
  const library = join(cache, `halfbyte-${level.name}-${hash(...objects.map(({ path }) => path))}.so`)
  if (existsSync(library)) return library

  const missing = objects.filter(({ path }) => !existsSync(path))
  const started = Date.now()
  report(`building the native kernels (${level.name}, ${missing.length} of ${objects.length} files, once) ...`)
  removeAbandoned(cache)
  const work = mkdtempSync(join(cache, 'build-'))
  try {
    writeFileSync(join(work, 'contracts.h'), contracts)
    const include = ['-I', work, '-I', join(sourceDirectory, 'shared')]
    const queue = missing.map(({ source, path }, i) => ({ source, path, temporary: join(work, `${i}.o`) }))
    const worker = async () => {
      for (let job = queue.shift(); job; job = queue.shift()) {
        await compile(compiler, [...flags, ...include, '-c', job.source, '-o', job.temporary])
        renameSync(job.temporary, job.path)
      }
    }
    await Promise.all(Array.from({ length: usableProcessors() }, worker))
    const temporary = join(work, 'library.so')
    const linkFlags = platform() === 'linux' ? ['-Wl,-z,nodelete'] : []
    await compile(compiler, ['-shared', '-pthread', ...linkFlags, ...objects.map(({ path }) => path), '-o', temporary])
    renameSync(temporary, library)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  report(`built the native kernels in ${((Date.now() - started) / 1000).toFixed(1)} s`)
  return library
}
