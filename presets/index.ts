import type { RunPreset } from '../src/config/schema.ts'
import { base, baseDense } from './base.ts'
import { hybrid1b, nemotron1b, nemotronH8b, nemotronNano12b } from './nemotron.ts'
import { small, smallDense } from './small.ts'
import { tiny, tinyDense } from './tiny.ts'

/** Every preset by name. */
export const presets: Readonly<Record<string, RunPreset>> = Object.fromEntries(
  [tiny, tinyDense, small, smallDense, base, baseDense, nemotron1b, hybrid1b, nemotronH8b, nemotronNano12b].map(
    preset => [preset.name, preset],
  ),
)
