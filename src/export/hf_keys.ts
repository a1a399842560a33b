import { UserError } from '../config/errors.ts'
import type { HfConfig } from './architectures.ts'

/** Reading a config.json key by key; every message names the key, what was found and what is wanted. */

const shown = (value: unknown): string => {
  const text = JSON.stringify(value, (_, inner) =>
    typeof inner === 'number' && !Number.isFinite(inner) ? String(inner) : inner,
  )
  return text === undefined ? 'nothing' : text.length > 60 ? `${text.slice(0, 57)}...` : text
}

const wrong = (key: string, value: unknown, wanted: string): UserError =>
  new UserError(`config.json: ${key}: found ${shown(value)}, wanted ${wanted}`)

/** The first of the keys that is there and not null. */
function first(config: HfConfig, keys: readonly string[]): { key: string; value: unknown } {
  for (const key of keys) {
    const value = config[key]
    if (value !== undefined && value !== null) return { key, value }
  }
  return { key: keys[0]!, value: undefined }
}

/** A whole number above 0 under the first of these names. @throws UserError */
export function wholeOf(config: HfConfig, ...keys: readonly string[]): number {
  const { key, value } = first(config, keys)
  if (!Number.isSafeInteger(value) || (value as number) < 1) throw wrong(key, value, 'a whole number above 0')
  return value as number
}

/** A number above 0, or `otherwise` where the key is absent. @throws UserError */
export function positiveOf(config: HfConfig, keys: readonly string[], otherwise: number): number {
  const { key, value } = first(config, keys)
  if (value === undefined) return otherwise
  if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) throw wrong(key, value, 'a number above 0')
  return value
}

/** Keys that must have one of these values, or be absent. @throws UserError */
export function expect(config: HfConfig, wanted: Readonly<Record<string, readonly unknown[]>>): void {
  for (const [key, values] of Object.entries(wanted)) {
    const value = config[key]
    if (value === undefined || values.includes(value)) continue
    throw wrong(key, value, `${values.map(shown).join(' or ')}, because halfbyte's models have nothing else`)
  }
}

/** @throws UserError unless the list holds */
export function expectThat(holds: boolean, config: HfConfig, key: string, wanted: string): void {
  if (!holds) throw wrong(key, config[key], wanted)
}
