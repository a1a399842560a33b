import { readFileSync } from 'node:fs'
import { arch, platform } from 'node:os'
import { UnavailableError } from './errors.ts'

/** An instruction level of the cpu backend: what the compiler may use, and what the processor must have. */
export interface Level {
  readonly name: string
  readonly flags: readonly string[]
  /** Feature names as Linux prints them in /proc/cpuinfo. */
  readonly needs: readonly string[]
  /** Columns of the panels that its products of 4-bit images read (gemm_fp4.h); absent: it unpacks codes into other ones. */
  readonly panelColumns?: number
}

/** Best first. A level fixes the compiler's flags, so two machines at one level compute the same numbers. */
export const levels: readonly Level[] = [
  {
    name: 'avx512',
    flags: ['-march=x86-64-v4', '-mavx512vnni', '-mprefer-vector-width=512'],
    needs: ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512cd', 'avx512_vnni', 'fma'],
    panelColumns: 32,
  },
  { name: 'avx2', flags: ['-march=x86-64-v3'], needs: ['avx2', 'fma', 'bmi2', 'f16c'], panelColumns: 8 },
  { name: 'portable', flags: [], needs: [] },
]

/** Processor features, empty where the system does not tell: on other processors than x86-64, and on other systems than Linux. */
export function cpuFeatures(): Set<string> {
  if (platform() !== 'linux' || arch() !== 'x64') return new Set()
  try {
    const line = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))
    return new Set(line?.[1]?.trim().split(/\s+/))
  } catch {
    return new Set()
  }
}

/** What levels with needs want first, and what this is, in words. */
export const levelsAreFor = `x86-64 processors under Linux, and this is ${arch()} under ${platform()}`

/**
 * The level asked for, or the best that this processor has.
 * @throws UnavailableError naming the missing features, or the level wanted if there is none of that name.
 */
export function chooseLevel(wanted?: string, features = cpuFeatures()): Level {
  const fits = (level: Level) => level.needs.every(feature => features.has(feature))
  if (wanted === undefined) return levels.find(fits)!
  const level = levels.find(({ name }) => name === wanted)
  if (!level)
    throw new UnavailableError(
      `instruction level "${wanted}" is unknown; use one of ${levels.map(l => l.name).join(', ')}`,
    )
  if (features.size === 0 && level.needs.length > 0)
    throw new UnavailableError(`instruction level "${wanted}" is for ${levelsAreFor}; use portable`)
  const missing = level.needs.filter(feature => !features.has(feature))
  if (missing.length > 0)
    throw new UnavailableError(
      `instruction level "${wanted}" needs ${missing.join(', ')}, which this processor does not have`,
    )
  return level
}
