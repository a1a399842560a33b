import { isDeepStrictEqual } from 'node:util'
import { commandLine, commandWords } from '../compare/command.ts'
import type { Comparison } from '../compare/comparison.ts'
import { configKeys, valueAt } from '../config/keys.ts'
import { loadConfig } from '../config/load.ts'
import type { RunConfig, RunPreset } from '../config/schema.ts'
import type { ReportedArm } from './read.ts'

/** Commands that make the runs again on a machine that has halfbyte alone: a preset, and every key that differs from it. */

export type Presets = Readonly<Record<string, RunPreset>>

const valueText = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))

const withoutName = (config: RunConfig): unknown => JSON.parse(JSON.stringify({ ...config, name: '' }))

export interface Source {
  readonly preset: string
  /** `key=value`, not yet quoted for a shell. */
  readonly overrides: readonly string[]
}

/** The preset from which the fewest overrides lead to a config, beside its name; undefined if overrides cannot express it. */
export function sourceOf(config: RunConfig, presets: Presets): Source | undefined {
  const sources = Object.keys(presets).flatMap((preset): Source[] => {
    const base = loadConfig(preset, [], presets)
    const overrides = configKeys
      .filter(key => key !== 'name' && valueAt(config, key) !== undefined)
      .filter(key => !isDeepStrictEqual(valueAt(base, key), valueAt(config, key)))
      .map(key => `${key}=${valueText(valueAt(config, key))}`)
    return [{ preset, overrides }]
  })
  sources.sort((a, b) => a.overrides.length - b.overrides.length)
  return sources.find(({ preset, overrides }) => {
    try {
      return isDeepStrictEqual(withoutName(loadConfig(preset, overrides, presets)), withoutName(config))
    } catch {
      return false
    }
  })
}

/** Trains one run, or branches it from another; undefined if it began from weights that are not ours to make. */
export function runCommand({ run, directory }: ReportedArm, presets: Presets): string | undefined {
  if (!run) return undefined
  const { config, origin } = run
  if (origin.branch) {
    const { run: from, step } = origin.branch
    return commandLine([
      'halfbyte',
      'branch',
      from,
      '--at',
      String(step),
      '--recipe',
      config.recipe,
      '--run',
      directory,
    ])
  }
  const source = origin.imported === undefined ? sourceOf(config, presets) : undefined
  return source && commandLine(['halfbyte', 'train', source.preset, ...source.overrides])
}

/**
 * The command of a comparison with its config resolved: the recorded one may name a file that only its author has. Undefined if it trains nothing, or
 * if overrides cannot express the config.
 */
export function comparisonCommand(
  comparison: Comparison,
  arms: readonly ReportedArm[],
  presets: Presets,
): string | undefined {
  const [program, verb, , ...rest] = commandWords(comparison.command)
  if (program !== 'halfbyte' || !(verb === 'compare' || verb === 'ablate') || !rest.includes('--seeds'))
    return undefined
  const first = arms.find(({ run }) => run)?.run
  if (!first) return undefined
  const source = sourceOf({ ...first.config, seed: Math.min(...comparison.seeds) }, presets)
  if (!source) return undefined
  const options: string[] = []
  for (let i = 0; i < rest.length; i++) if (rest[i]!.startsWith('--')) options.push(...rest.slice(i, i + 2))
  const overrides = source.overrides.filter(override => !override.startsWith('recipe='))
  return commandLine(['halfbyte', verb, source.preset, ...options, ...overrides])
}
