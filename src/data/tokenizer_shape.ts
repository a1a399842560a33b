import { isObject } from '../tensor/json.ts'
import { kindOf } from './files.ts'

/** What of a tokenizer.json does not have the shape that its reader takes for granted: the file may come from anywhere. */

type Check = (value: unknown, key: string) => string | undefined

const wanted = (key: string, value: unknown, what: string): string => `${key}: found ${kindOf(value)}, wanted ${what}`

/** The first thing wrong with the elements of a list. */
function firstOf(list: readonly unknown[], key: string, check: Check): string | undefined {
  for (const [i, value] of list.entries()) {
    const wrong = check(value, `${key}.${i}`)
    if (wrong) return wrong
  }
  return undefined
}

const maybe =
  (check: Check): Check =>
  (value, key) =>
    value === undefined || value === null ? undefined : check(value, key)

const listOf =
  (check: Check): Check =>
  (value, key) =>
    Array.isArray(value) ? firstOf(value, key, check) : wanted(key, value, 'a list')

const text: Check = (value, key) => (typeof value === 'string' ? undefined : wanted(key, value, 'text'))

const objectOf =
  (checks: Readonly<Record<string, Check>>): Check =>
  (value, key) => {
    if (!isObject(value)) return wanted(key, value, 'an object')
    for (const [name, check] of Object.entries(checks)) {
      const wrong = check(value[name], key === '' ? name : `${key}.${name}`)
      if (wrong) return wrong
    }
    return undefined
  }

const isPair = (value: unknown): boolean =>
  Array.isArray(value) && value.length === 2 && value.every(part => typeof part === 'string')

const merge: Check = (value, key) =>
  typeof value === 'string' || isPair(value) ? undefined : wanted(key, value, 'two tokens')

const content: Check = (value, key) =>
  typeof value === 'string' && value !== ''
    ? undefined
    : value === ''
      ? `${key}: found "", wanted text`
      : wanted(key, value, 'text')

/** A step of a pipeline, which may be a sequence of steps under `list`. */
const step =
  (list: string): Check =>
  (value, key) =>
    objectOf({
      type: text,
      [list]: maybe(listOf(step(list))),
      pattern: maybe(objectOf({ Regex: maybe(text), String: maybe(text) })),
    })(value, key)

const bpe = objectOf({ vocab: maybe(objectOf({})), merges: maybe(listOf(merge)) })

/** Models of other types have other shapes, and are refused by their type. */
const model: Check = (value, key) =>
  isObject(value) && value.type !== undefined && value.type !== 'BPE'
    ? maybe(text)(value.type, `${key}.type`)
    : bpe(value, key)

const check = objectOf({
  model: maybe(model),
  added_tokens: maybe(listOf(objectOf({ content }))),
  normalizer: maybe(step('normalizers')),
  pre_tokenizer: maybe(step('pretokenizers')),
})

/** `added_tokens.0.content: found a list, wanted text`, or undefined. */
export const wrongShape = (json: unknown): string | undefined =>
  isObject(json) ? check(json, '') : `found ${kindOf(json)}, wanted an object`
