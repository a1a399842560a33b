import { distance } from 'fastest-levenshtein'
import type { z } from 'zod'
import { runSchema } from './schema.ts'

type Schema = z.core.$ZodType

/** The schema under its defaults. */
function bare(schema: Schema): Schema {
  const { innerType } = schema._zod.def as { innerType?: Schema }
  return innerType ? bare(innerType) : schema
}

const shapeOf = (schema: Schema): Readonly<Record<string, Schema>> | undefined =>
  (bare(schema)._zod.def as { shape?: Record<string, Schema> }).shape

/** The schema of a dotted key, sections included; undefined if a config has no such key. */
export function schemaAt(key: string): Schema | undefined {
  let schema: Schema | undefined = runSchema
  for (const part of key.split('.')) {
    const shape: Readonly<Record<string, Schema>> | undefined = schema && shapeOf(schema)
    schema = shape && Object.hasOwn(shape, part) ? shape[part] : undefined
  }
  return schema
}

function leaves(schema: Schema, prefix: string): string[] {
  const shape = shapeOf(schema)
  if (!shape) return [prefix]
  return Object.keys(shape).flatMap(name => leaves(shape[name]!, prefix ? `${prefix}.${name}` : name))
}

/** Every dotted key that holds a value, in the order of the schema. */
export const configKeys: readonly string[] = leaves(runSchema, '')

/** The candidate nearest to a mistyped word, if one is near enough to be meant. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const scored = candidates.map(candidate => ({
    candidate,
    score: distance(word.toLowerCase(), candidate.toLowerCase()),
  }))
  scored.sort((a, b) => a.score - b.score)
  const best = scored[0]
  const most = Math.min(word.length - 1, Math.max(2, Math.floor(word.length / 3)))
  return best && best.score <= most ? best.candidate : undefined
}

const last = (key: string): string => key.slice(key.lastIndexOf('.') + 1)

/** The keys of an entry of the list that `key` lies in, such as `rules.0.use`; undefined elsewhere. */
function entryKeys(key: string): string[] | undefined {
  const [, list] = /^([\w.]+?)\.\d+\.[^.]+$/.exec(key) ?? []
  const schema = list === undefined ? undefined : schemaAt(list)
  const { element } = (schema ? bare(schema)._zod.def : {}) as { element?: Schema }
  const shape = element && shapeOf(element)
  return shape && Object.keys(shape)
}

/** A word as a message shows it, on one line. */
const quoted = (word: string): string => JSON.stringify(word.length > 60 ? `${word.slice(0, 57)}...` : word)

/** `unknown key "optimizer.lrr"; did you mean "optimizer.lr"?` A known name in the wrong section is found as well. */
export function unknownKey(key: string): string {
  const inEntry = entryKeys(key)
  if (inEntry) return `unknown key ${quoted(key)}; the keys there are ${inEntry.join(', ')}`
  if (schemaAt(key)) return `unknown key ${quoted(key)}; in a file it is ${last(key)} under "${key.split('.')[0]}:"`
  const meant =
    configKeys.find(candidate => last(candidate) === last(key)) ??
    nearest(key, configKeys) ??
    nearest(key, Object.keys(shapeOf(runSchema)!)) ??
    configKeys.find(candidate => last(candidate) === nearest(last(key), configKeys.map(last)))
  return `unknown key ${quoted(key)}; ${meant ? `did you mean "${meant}"?` : `the keys are ${configKeys.join(', ')}`}`
}

/** `recipe "nvfp5" is unknown; did you mean "nvfp4"?`, or the list of all. */
export function unknownName(what: string, name: string, known: readonly string[]): string {
  const meant = nearest(name, known)
  const all = `use one of ${[...known].join(', ')}`
  return `${what} ${quoted(name)} is unknown; ${meant ? `did you mean "${meant}"? (${all})` : all}`
}

/** The value of a dotted key, or undefined. */
export function valueAt(config: unknown, key: string): unknown {
  let value = config
  for (const part of key.split('.')) value = (value as Record<string, unknown> | undefined)?.[part]
  return value
}
