import { basename, extname } from 'node:path'
import { z } from 'zod'
import { isTokenizerSpec, tokenizerForms } from '../data/tokenizers.ts'
import { recipes } from '../recipes/recipes.ts'
import { isObject } from '../tensor/json.ts'
import { checkConfig } from './checks.ts'
import { UserError } from './errors.ts'
import { configKeys, schemaAt, unknownKey, unknownName, valueAt } from './keys.ts'
import { parseYaml, readTree, type Tree } from './read.ts'
import { checkRules } from './rules.ts'
import { backendActivations, type RunConfig, type RunPreset, runSchema } from './schema.ts'
import { shown } from './shown.ts'

/** `over` wins; sections merge key by key, lists and values replace. */
function merge(base: Tree, over: Tree): Tree {
  const entries = Object.entries(over).map(([key, value]): [string, unknown] => {
    const below = Object.hasOwn(base, key) ? base[key] : undefined
    return [key, isObject(value) && isObject(below) ? merge(below, value) : value]
  })
  // An assignment would take the key `__proto__` for something else.
  return Object.fromEntries([...Object.entries(base), ...entries])
}

/** One `key=value` as a tree. The value is read as YAML; where the key wants text, or YAML reads it otherwise, as it stands. */
function readOverride(override: string): { key: string; tree: Tree } {
  const at = override.indexOf('=')
  if (at < 1) throw new UserError(`"${override}" is not an override; write key=value, such as steps=100`, 2)
  const key = override.slice(0, at).trim()
  const text = override.slice(at + 1)
  const schema = schemaAt(key)
  if (!schema) throw new UserError(unknownKey(key), 2)
  let value: unknown = text
  try {
    value = parseYaml(text, key)
  } catch {}
  const fits = (candidate: unknown) => z.safeParse(schema, candidate).success
  if (!fits(value) && fits(text)) value = text
  return { key, tree: key.split('.').reduceRight<Tree>((inner, part) => ({ [part]: inner }), value as Tree) }
}

function presetNamed(
  name: unknown,
  presets: Readonly<Record<string, RunPreset>>,
  place: string,
  exitCode: 1 | 2,
): Tree {
  if (typeof name === 'string' && Object.hasOwn(presets, name)) return presets[name] as Tree
  if (typeof name !== 'string')
    throw new UserError(`${place}found ${shown(name)}, wanted the name of a preset`, exitCode)
  throw new UserError(place + unknownName('preset', name, Object.keys(presets)), exitCode)
}

function readSource(source: string, presets: Readonly<Record<string, RunPreset>>): { tree: Tree; place: string } {
  const kind = extname(source)
  if (!['.yaml', '.yml', '.json'].includes(kind)) return { tree: presetNamed(source, presets, '', 2), place: '' }
  const { extends: base, ...own } = readTree(source, 'config file', 2)
  const place = `${source}: `
  const name = basename(source, kind).replace(/[^\w.-]/g, '-')
  const below = base === undefined ? {} : presetNamed(base, presets, `${place}extends: `, 1)
  return { tree: merge(merge(below, { name }), own), place }
}

/** Keys whose values are names of rows of tables. */
const names: Readonly<Record<string, readonly string[]>> = {
  recipe: Object.keys(recipes),
}

/** The rules in a file that holds them alone, as "halfbyte sensitivity" writes it. */
function readRules(path: string, exitCode: 1 | 2): unknown {
  const { rules, ...others } = readTree(path, 'file of rules', exitCode)
  const [other] = Object.keys(others)
  if (rules !== undefined && other === undefined) return rules
  throw new UserError(`${path}: found ${other ? `the key "${other}"` : 'no rules'}, wanted a list under "rules:" alone`)
}

/**
 * Checks a raw config and fills its defaults.
 * @param place Put before messages that concern the file, such as `my.yaml: `.
 * @param overridden Keys given on the command line, whose mistakes are mistakes of the command (exit code 2).
 */
function resolve(given: Tree, place: string, overridden: readonly string[]): RunConfig {
  const rulesFile = typeof given.rules === 'string' ? given.rules : undefined
  const tree =
    rulesFile === undefined ? given : { ...given, rules: readRules(rulesFile, overridden.includes('rules') ? 2 : 1) }
  const fail = (key: string, message: string): never => {
    if (rulesFile !== undefined && /^rules\b/.test(key)) throw new UserError(`${rulesFile}: ${message}`)
    const typed = overridden.some(name => name === key || key.startsWith(`${name}.`))
    throw new UserError(typed ? message : place + message, typed ? 2 : 1)
  }
  const result = runSchema.safeParse(tree)
  if (!result.success) {
    const issue = result.error.issues[0]!
    const path = issue.path.map(String)
    if (issue.code === 'unrecognized_keys') {
      const key = [...path, issue.keys[0]!].join('.')
      fail(key, unknownKey(key))
    }
    const key = path.join('.')
    const found = valueAt(tree, key)
    fail(key, `${key}: ${found === undefined ? 'missing' : `found ${shown(found)}`}, wanted ${issue.message}`)
  }
  const { model, ...rest } = result.data!
  const activations = model.activations ?? backendActivations[rest.backend]!
  const config: RunConfig = { ...rest, model: { ...model, activations } }
  for (const [key, known] of Object.entries(names)) {
    const name = valueAt(config, key)
    if (typeof name === 'string' && !known.includes(name)) fail(key, unknownName(key, name, known))
  }
  const wrongRule = checkRules(config)
  if (wrongRule) fail('rules', wrongRule)
  const { tokenizer } = config.data
  if (!isTokenizerSpec(tokenizer))
    fail('data.tokenizer', `data.tokenizer: found ${shown(tokenizer)}, wanted ${tokenizerForms}`)
  const wrong = checkConfig(config)
  if (wrong) throw new UserError(place + wrong, overridden.length > 0 ? 2 : 1)
  return config
}

/**
 * The config of a run.
 * @param source Name of a preset, or path of a .yaml, .yml or .json file, whose `extends` names a preset.
 * @param overrides `key=value`, keys dotted, values as in YAML; later ones win.
 * @throws UserError naming the first unknown key, wrong value or pair of values that do not go together.
 */
export function loadConfig(
  source: string,
  overrides: readonly string[],
  presets: Readonly<Record<string, RunPreset>>,
): RunConfig {
  const { tree, place } = readSource(source, presets)
  const changes = overrides.map(readOverride)
  const merged = changes.reduce((sum, change) => merge(sum, change.tree), tree)
  return resolve(
    merged,
    place,
    changes.map(change => change.key),
  )
}

/** A resolved config with some keys changed, checked again: how a resumed run takes `threads=4`. */
export function overrideConfig(config: RunConfig, overrides: readonly string[]): RunConfig {
  const changes = overrides.map(readOverride)
  const merged = changes.reduce((sum, change) => merge(sum, change.tree), config as unknown as Tree)
  return resolve(
    merged,
    '',
    changes.map(change => change.key),
  )
}

/** Checks a resolved config read back from a file. */
export function parseConfig(value: unknown, place: string): RunConfig {
  if (!isObject(value)) throw new UserError(`${place}: found ${shown(value)}, wanted the config of a run`)
  return resolve(value, `${place}: `, [])
}

/** Where a run computes and how it is called, not what it computes: these may differ when it is resumed. */
const placement = new Set(['name', 'backend', 'threads', 'level', 'libraries', 'model.recompute'])

/** `optimizer.lr: 0.001 there, 0.002 here` for the first key that changes numbers and differs, else undefined. */
export function firstDifference(there: RunConfig, here: RunConfig): string | undefined {
  const text = (config: RunConfig, name: string) => JSON.stringify(valueAt(config, name))
  const key = configKeys.find(name => !placement.has(name) && text(there, name) !== text(here, name))
  return key && `${key}: ${shown(valueAt(there, key))} there, ${shown(valueAt(here, key))} here`
}
