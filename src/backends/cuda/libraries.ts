import { readdirSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import koffi, { type LibraryHandle } from 'koffi'
import { UnavailableError } from '../errors.ts'

/** Finds NVIDIA's libraries where the linker, the toolkit, pip and conda put them; nothing is downloaded or built. */

/** A C function bound by koffi. */
export type NativeFunction = ReturnType<LibraryHandle['func']>

type Environment = Readonly<Record<string, string | undefined>>

/** Paths in `parent` whose names match, highest version first; none if it cannot be read. */
function entries(parent: string, pattern: RegExp): string[] {
  try {
    return readdirSync(parent)
      .filter(name => pattern.test(name))
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
      .map(name => join(parent, name))
  } catch {
    return []
  }
}

/** Prefixes of the Pythons that a user of this shell would start: `<prefix>/lib/python3.x/site-packages` holds their wheels. */
function pythonPrefixes({ PATH = '', VIRTUAL_ENV, CONDA_PREFIX }: Environment): string[] {
  const prefixes = [VIRTUAL_ENV, join(process.cwd(), '.venv'), CONDA_PREFIX].filter(path => path !== undefined)
  for (const directory of PATH.split(':')) {
    for (const python of entries(directory, /^python3(\.\d+)?$/)) {
      prefixes.push(dirname(directory))
      try {
        prefixes.push(dirname(dirname(realpathSync(python))))
      } catch {}
    }
    if (basename(directory) === 'shims') prefixes.push(...entries(join(dirname(directory), 'versions'), /./))
  }
  return [...prefixes, join(homedir(), '.local'), '/usr/local', '/usr']
}

/** Folders to search, in order. `LD_LIBRARY_PATH` comes first, as it does for the linker. */
export function libraryDirectories(environment: Environment = process.env): string[] {
  const { LD_LIBRARY_PATH = '', CUDA_HOME, CUDA_PATH, CONDA_PREFIX } = environment
  const toolkits = [CUDA_HOME, CUDA_PATH].filter(path => path !== undefined).concat(entries('/usr/local', /^cuda/))
  const wheels = pythonPrefixes(environment)
    .flatMap(prefix => entries(join(prefix, 'lib'), /^python3/))
    .flatMap(python => [join(python, 'site-packages'), join(python, 'dist-packages')])
    .flatMap(packages => entries(join(packages, 'nvidia'), /./))
    .map(wheel => join(wheel, 'lib'))
  return [
    ...new Set([
      ...LD_LIBRARY_PATH.split(':').filter(path => path !== ''),
      ...toolkits.flatMap(toolkit => [join(toolkit, 'lib64'), join(toolkit, 'targets', 'x86_64-linux', 'lib')]),
      ...(CONDA_PREFIX ? [join(CONDA_PREFIX, 'lib')] : []),
      ...wheels,
      '/usr/lib/x86_64-linux-gnu',
      '/usr/lib/aarch64-linux-gnu',
      '/usr/lib64',
      '/usr/lib/wsl/lib',
      '/usr/local/nvidia/lib64',
      '/usr/lib',
    ]),
  ]
}

/** Files `lib<name>.so`, with or without a version. */
export const libraryFiles = (name: string, directories: readonly string[]): string[] =>
  directories.flatMap(directory => entries(directory, new RegExp(`^lib${name}\\.so(\\.[\\d.]+)?$`)))

/** As CUDA counts: 13.0 is 13000, and so are cuDriverGetVersion's numbers. */
export const versionText = (version: number): string =>
  `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`

export interface Wanted {
  readonly name: string
  /** What it is for, in a sentence's words. */
  readonly purpose: string
  /** How to get it. */
  readonly advice: string
  /** Version of a loaded library, as 1000 * major + 10 * minor. */
  version(library: LibraryHandle): number
  /** The oldest that works. */
  readonly least: number
  /** The newest major version that works, where a driver limits it. */
  readonly newestMajor?: number
  /** Why a library of a fitting version does not fit all the same. */
  lacks?(library: LibraryHandle): string | undefined
}

export interface Found {
  readonly library: LibraryHandle
  readonly path: string
  readonly version: number
}

/**
 * The first library in the directories, or then by the linker, that loads and has a version that fits.
 * @throws UnavailableError naming what was found and what is wanted.
 */
export function loadLibrary(wanted: Wanted, directories: readonly string[]): Found {
  const { name, purpose, advice, least, newestMajor, lacks } = wanted
  const rejected: string[] = []
  for (const path of [...libraryFiles(name, directories), `lib${name}.so.1`, `lib${name}.so`]) {
    let library: LibraryHandle
    try {
      library = koffi.load(path)
    } catch (error) {
      if (path.includes('/')) rejected.push(`${path} does not load (${(error as Error).message})`)
      continue
    }
    let version: number
    try {
      version = wanted.version(library)
    } catch (error) {
      rejected.push(`${path} is not what its name says (${(error as Error).message})`)
      continue
    }
    const fits = version >= least && (newestMajor === undefined || version < (newestMajor + 1) * 1000)
    const lack = fits ? lacks?.(library) : undefined
    if (fits && lack === undefined) return { library, path, version }
    rejected.push(`${path} has version ${versionText(version)}${lack === undefined ? '' : `, which ${lack}`}`)
  }
  const bounds =
    newestMajor === undefined
      ? `${versionText(least)} or newer`
      : `${versionText(least)} or newer, up to ${newestMajor}.x as the driver allows`
  throw new UnavailableError(
    `lib${name} (${purpose}): wanted version ${bounds}, found ${rejected.join('; ') || 'none'}: ${advice}`,
  )
}
