import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, realpathSync, statfsSync } from 'node:fs'
import { cpus, freemem, totalmem } from 'node:os'
import { basename, join } from 'node:path'
import { libraryDirectories, libraryFiles } from '../backends/cuda/libraries.ts'
import { chooseLevel, cpuFeatures, levels, levelsAreFor } from '../backends/levels.ts'
import { CompilerError, cacheDirectory, compilersTried, findCompiler } from '../backends/native.ts'
import { openBackend, packageRoot } from '../backends/open.ts'
import { kernels } from '../kernels/index.ts'
import { usableProcessors } from '../tensor/processors.ts'
import { toStderr } from './session.ts'

/**
 * What a machine has for training, one check a line of `halfbyte doctor`. A check looks at this machine only where no facts are
 * handed to it.
 */
export interface Check {
  readonly name: string
  /** `absent`: not there and not needed; `missing`: something works worse, or not at all, without it. */
  readonly state: 'ok' | 'absent' | 'missing'
  readonly found: string
  /** What to do about it. */
  readonly advice?: string
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** Features that kernels use or could use. */
const notable = ['avx2', 'fma', 'f16c', 'avx_vnni', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_int8', 'amx_bf16']

export function checkProcessor(model = cpus()[0]?.model ?? 'unknown', features = cpuFeatures()): Check {
  const level = chooseLevel(undefined, features)
  const better = levels.slice(0, levels.indexOf(level))
  const why = better.map(({ name, needs }) => `${name} needs ${needs.filter(need => !features.has(need)).join(', ')}`)
  const reason = why.length > 0 ? why.join('; ') : 'the fastest there is'
  const present = notable.filter(feature => features.has(feature)).join(' ') || 'no features that matter here'
  const found =
    features.size === 0
      ? `${model.trim()}: level ${level.name}, others are for ${levelsAreFor}`
      : `${model.trim()} (${present}): level ${level.name}, ${reason}`
  return { name: 'processor', state: 'ok', found }
}

export function checkCompiler(compiler = findCompiler()): Check {
  if (compiler) {
    const command = [compiler.command, ...compiler.options].join(' ')
    return { name: 'compiler', state: 'ok', found: `${command}: ${compiler.version}` }
  }
  return {
    name: 'compiler',
    state: 'missing',
    found: `no C++ compiler (tried ${compilersTried()}); without one only backend=reference trains, slowly`,
    advice:
      'install one: "apt install g++" (Debian, Ubuntu), "dnf install gcc-c++" (Fedora), "xcode-select --install" (macOS)',
  }
}

/** Builds the native kernels if that has not been done, loads them, and says how long it took. */
export async function checkKernels(): Promise<Check> {
  const name = 'kernels'
  const reports: string[] = []
  const started = performance.now()
  try {
    const report = (message: string) => {
      reports.push(message)
      toStderr(message)
    }
    const backend = await openBackend('cpu', kernels, { report })
    backend.close()
    const seconds = ((performance.now() - started) / 1000).toFixed(reports.length > 0 ? 1 : 2)
    const how = reports.length > 0 ? `built and loaded in ${seconds} s` : `were built before, loaded in ${seconds} s`
    return { name, state: 'ok', found: `${kernels.length} C++ kernels (${backend.description.level}) ${how}` }
  } catch (error) {
    const { message } = error as Error
    const broken = error instanceof CompilerError && findCompiler() !== undefined
    return {
      name,
      state: 'missing',
      found: `the C++ kernels are not built: ${broken ? message : message.split(':')[0]}`,
      advice: broken ? 'try another compiler: CXX=clang++ halfbyte doctor' : 'see the lines above',
    }
  }
}

export function checkThreads(): Check {
  const [usable, all] = [usableProcessors(), cpus().length]
  return { name: 'threads', state: 'ok', found: usable === all ? `${usable}` : `${usable} of ${all} processors` }
}

export function checkMemory(total = totalmem(), free = freemem(), limit = process.constrainedMemory() ?? 0): Check {
  const limited = limit > 0 && limit < total ? `, of which this process may use ${gibibytes(limit)}` : ''
  const found = `${gibibytes(total)}, ${gibibytes(free)} free${limited}`
  const usable = Math.min(total, limited ? limit : total)
  if (usable >= 2 * 2 ** 30) return { name: 'memory', state: 'ok', found }
  return {
    name: 'memory',
    state: 'missing',
    found,
    advice: 'the preset tiny wants about 1.5 GiB; halve data.micro_batch',
  }
}

export function checkNode(version = process.versions.node): Check {
  const [major, minor] = version.split('.').map(Number) as [number, number]
  const state = major > 20 || (major === 20 && minor >= 19) ? 'ok' : 'missing'
  const advice = state === 'ok' ? {} : { advice: 'install Node.js 20.19 or newer' }
  return { name: 'node', state, found: version, ...advice }
}

export function checkCache(): Check {
  try {
    return { name: 'cache', state: 'ok', found: `compiled kernels are kept in ${cacheDirectory(packageRoot())}` }
  } catch (error) {
    const advice = 'set XDG_CACHE_HOME to a directory that can be written'
    return { name: 'cache', state: 'missing', found: (error as Error).message, advice }
  }
}

/** Where runs go: the folder `runs` of the working directory. */
export function checkDisk(directory = process.cwd()): Check {
  const runs = join(directory, 'runs')
  const place = existsSync(runs) ? runs : directory
  try {
    accessSync(place, constants.W_OK)
    const { bavail, bsize } = statfsSync(place)
    const free = bavail * bsize
    const found = `${gibibytes(free)} free in ${place}`
    if (free >= 2 ** 30) return { name: 'disk', state: 'ok', found }
    return {
      name: 'disk',
      state: 'missing',
      found,
      advice: 'free some space, or pass --run with a directory elsewhere',
    }
  } catch {
    const advice = 'work in another directory, or pass --run with a directory that can be written'
    return { name: 'disk', state: 'missing', found: `${place} cannot be written`, advice }
  }
}

/** The fields of `nvidia-smi`, a GPU a row; undefined where the command is not there or fails. */
function askDriver(): string[][] | undefined {
  const query = ['--query-gpu=name,memory.total,compute_cap,driver_version', '--format=csv,noheader,nounits']
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8', timeout: 10_000 })
  if (status !== 0 || !stdout.trim()) return undefined
  return stdout
    .trim()
    .split('\n')
    .map(line => line.split(',').map(field => field.trim()))
}

export function checkGpu(gpus = askDriver()): Check {
  if (!gpus)
    return { name: 'gpu', state: 'absent', found: 'no NVIDIA driver answers (nvidia-smi); runs use the processor' }
  const [, , , driver] = gpus[0]!
  const list = gpus.map(([name, memory, capability]) => `${name} (${memory} MiB, compute ${capability})`).join(', ')
  return { name: 'gpu', state: 'ok', found: `${list}, driver ${driver}; to train on it: backend=cuda` }
}

/** The first file `lib<name>.so*` of the directories with the version that its name tells. */
export function findLibrary(
  name: string,
  directories: readonly string[],
): { path: string; version: string } | undefined {
  for (const path of libraryFiles(name, directories))
    try {
      const version = /\.so\.([\d.]+)$/.exec(basename(realpathSync(path)))?.[1] ?? ''
      return { path, version }
    } catch {}
  return undefined
}

const libraries = [
  { name: 'cuda', title: 'the driver', advice: "install NVIDIA's driver" },
  { name: 'nvrtc', title: 'the run-time compiler', advice: 'pip install nvidia-cuda-nvrtc' },
  { name: 'cublasLt', title: 'matrix products', advice: 'pip install nvidia-cublas' },
]

/** CUDA's libraries: advice is given only where there is a GPU to use them. */
export function checkLibraries(hasGpu: boolean, directories = libraryDirectories()): Check[] {
  return libraries.map(({ name, title, advice }) => {
    const library = findLibrary(name, directories)
    const check = { name: `lib${name}` }
    if (library)
      return { ...check, state: 'ok', found: `${library.path}${library.version ? `, version ${library.version}` : ''}` }
    if (!hasGpu) return { ...check, state: 'absent', found: `not found (${title})` }
    return { ...check, state: 'missing', found: `not found (${title})`, advice }
  })
}
