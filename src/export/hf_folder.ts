import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { isSystemError, systemReason } from '../run/files.ts'
import { floatsOf, openSafetensors, type SafetensorsFile, safetensorsDtypes } from '../tensor/safetensors.ts'
import type { HfConfig } from './architectures.ts'
import { readGgufHeader } from './gguf_header.ts'

/** A checkpoint of Hugging Face transformers in a folder: config.json and tensors in one or several safetensors files. */

/**
 * JSON as Python writes it: `Infinity` and `NaN`, which are none, and transformers' own `{"__float__": "Infinity"}` for them.
 * @throws SyntaxError
 */
export function parsePythonJson(text: string): unknown {
  // A number beyond all others is read as Infinity.
  const standard = text.replace(/"(?:[^"\\]|\\.)*"|\bInfinity\b|\bNaN\b/g, token =>
    token === 'Infinity' ? '1e999' : token === 'NaN' ? 'null' : token,
  )
  return JSON.parse(standard, (_, value) => {
    const float = (value as { __float__?: unknown } | null)?.__float__
    return typeof float === 'string' ? Number(float) : value
  })
}

/** @throws UserError if the file is missing, unreadable or not a JSON object */
function readJson(folder: string, name: string): HfConfig {
  const path = join(folder, name)
  let value: unknown
  try {
    value = parsePythonJson(readFileSync(path, 'utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) throw new UserError(`${path} is not JSON`)
    if (isSystemError(error)) throw new UserError(`${path} cannot be read: ${systemReason(error)}`)
    throw error
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new UserError(`${path} is no JSON object`)
  return value as HfConfig
}

/** Tensors of a folder, wherever they lie; `close` it. */
export interface HfTensors {
  readonly names: readonly string[]
  /** @throws UserError if there is none of that name */
  shape(name: string): readonly number[]
  dtype(name: string): string
  /** Elements `from` to `to` as FP32. @throws UserError where they are not floats */
  read(name: string, from: number, to: number): Float32Array
  close(): void
}

const single = 'model.safetensors'
const index = 'model.safetensors.index.json'

/** Which file every tensor is in, or undefined with one file for all. */
function weightMap(folder: string): ReadonlyMap<string, string> | undefined {
  if (existsSync(join(folder, single))) return undefined
  if (!existsSync(join(folder, index)))
    throw new UserError(`${folder} has neither ${single} nor ${index}: safetensors are wanted`)
  const { weight_map: map } = readJson(folder, index)
  if (typeof map !== 'object' || map === null) throw new UserError(`${join(folder, index)} has no "weight_map"`)
  for (const [name, file] of Object.entries(map))
    if (typeof file !== 'string' || /[/\\]/.test(file))
      throw new UserError(`${join(folder, index)}: the file of ${name} is no name of a file`)
  return new Map(Object.entries(map))
}

/** @throws UserError or SafetensorsError naming the file that is missing or whose header lies */
export function openHfTensors(folder: string): HfTensors {
  const map = weightMap(folder)
  const files = new Map<string, SafetensorsFile>()
  const close = () => {
    for (const file of files.values()) file.close()
  }
  const places = new Map<string, SafetensorsFile>()
  try {
    for (const name of new Set(map?.values() ?? [single])) {
      const path = join(folder, name)
      if (!existsSync(path)) throw new UserError(`${path} is missing, which ${index} names`)
      files.set(name, openSafetensors(path))
    }
    for (const [file, opened] of files)
      for (const name of opened.tensors.keys()) {
        if (map && map.get(name) !== file)
          throw new UserError(`${join(folder, file)} has a tensor ${name} that ${index} does not place there`)
        places.set(name, opened)
      }
    for (const [name, file] of map ?? [])
      if (!places.has(name)) throw new UserError(`${join(folder, file)} has no tensor ${name}, though ${index} says so`)
  } catch (error) {
    close()
    throw error
  }
  const entry = (name: string) => {
    const file = places.get(name)
    if (!file) throw new UserError(`${folder} has no tensor ${name}`)
    return { file, ...file.tensors.get(name)! }
  }
  return {
    names: [...places.keys()],
    shape: name => entry(name).shape,
    dtype: name => entry(name).dtype,
    read(name, from, to) {
      const { file, dtype } = entry(name)
      const bytes = safetensorsDtypes[dtype]
      const data = file.bytes(name, from * bytes, to * bytes)
      const values = floatsOf({ dtype, shape: [to - from], data })
      if (!values) throw new UserError(`${folder}: tensor ${name} is ${dtype}, wanted floats`)
      return values
    },
    close,
  }
}

/** @throws UserError if it is no folder with a config.json */
export function readHfConfig(folder: string): HfConfig {
  if (!existsSync(folder)) throw new UserError(`${folder} does not exist`)
  if (!statSync(folder).isDirectory()) {
    const what = folder.endsWith('.gguf')
      ? `a GGUF of ${readGgufHeader(folder).metadata.get('general.architecture')}, which keeps no exact weights of all kinds`
      : 'a file'
    throw new UserError(`${folder} is ${what}; a folder with config.json and safetensors is wanted`)
  }
  if (!existsSync(join(folder, 'config.json'))) throw new UserError(`${folder} has no config.json`)
  return readJson(folder, 'config.json')
}
