import { formats } from './formats.ts'

/** Arguments of the library: what programs without types pass is refused by name rather than taken for something else. */

/** A value in words: `undefined`, `"x"`, `an Array`. */
function said(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value !== 'object' || value === null) return String(value)
  const { name } = (value as object).constructor ?? { name: 'Object' }
  return `${/^[AEIOU]/.test(name) ? 'an' : 'a'} ${name}`
}

/** @throws TypeError naming the argument, what was found and what is wanted */
export function wantArgument(isRight: boolean, name: string, value: unknown, wanted: string): void {
  if (!isRight) throw new TypeError(`${name}: found ${said(value)}, wanted ${wanted}`)
}

export const wantFloats = (name: string, value: unknown): void =>
  wantArgument(value instanceof Float32Array, name, value, 'a Float32Array')

export const wantObject = (name: string, value: unknown): void =>
  wantArgument(typeof value === 'object' && value !== null, name, value, 'an object')

export const wantFormat = (name: string, value: unknown): void =>
  wantArgument(
    typeof value === 'string' && Object.hasOwn(formats, value),
    name,
    value,
    `one of ${Object.keys(formats).join(', ')}`,
  )

/** Options that are one of a few words, where they are given. */
export function wantChoices(
  options: Readonly<Record<string, unknown>>,
  choices: Readonly<Record<string, readonly string[]>>,
): void {
  for (const [name, words] of Object.entries(choices)) {
    const value = options[name]
    if (value === undefined) continue
    wantArgument(words.includes(value as string), `options.${name}`, value, `one of ${words.join(', ')}`)
  }
}
