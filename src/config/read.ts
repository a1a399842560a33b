import { readFileSync, statSync } from 'node:fs'
import { parseDocument, type YAMLError } from 'yaml'
import { invalidUtf8 } from '../data/files.ts'
import { isObject } from '../tensor/json.ts'
import { UserError } from './errors.ts'
import { shown } from './shown.ts'

/** Files of keys and values that people write: YAML, of which JSON is a part. */

export type Tree = { [key: string]: unknown }

/** No config comes near this; a file named by mistake does. */
const mostBytes = 2 ** 20

/** What some of the parser's sentences say to someone who has only the file. */
const plainer: Readonly<Record<string, string>> = {
  MULTIPLE_DOCS: 'found a second document (---), wanted one',
  NON_STRING_KEY: 'found a key that is a list or a section, wanted a word',
}

function sentenceOf({ code, message, linePos }: YAMLError): string {
  const line = linePos ? `, line ${linePos[0].line}` : ''
  const deep = message.includes('call stack')
  const said = message.split('\n')[0]!.replace(/ at line .*$/, '')
  return `${line}: ${deep ? 'found lists or sections nested too deeply' : (plainer[code] ?? said)}`
}

/**
 * The value of a text in YAML.
 * @throws UserError, its message starting with `place`, if it is none, or if the parser has doubts
 */
export function parseYaml(text: string, place: string): unknown {
  const document = parseDocument(text, { stringKeys: true })
  const [doubt] = [...document.errors, ...document.warnings]
  if (doubt) throw new UserError(place + sentenceOf(doubt))
  let value: unknown
  try {
    value = document.toJS()
  } catch (error) {
    throw new UserError(`${place}: ${(error as Error).message.split('\n')[0]}`)
  }
  try {
    JSON.stringify(value)
  } catch {
    throw new UserError(`${place}: found a section that contains itself`)
  }
  return value
}

/**
 * @param what How the file is called in messages, such as `config file`.
 * @param exitCode of a file that is not there: 2 where the command names it.
 * @throws UserError naming the file and what is wrong with it
 */
export function readTree(path: string, what: string, exitCode: 1 | 2): Tree {
  const fail = (why: string): never => {
    throw new UserError(`${what} ${path}${why}`, exitCode)
  }
  let bytes = Buffer.alloc(0)
  try {
    const found = statSync(path, { throwIfNoEntry: false }) ?? fail(' does not exist')
    if (!found.isFile()) fail(` is a ${found.isDirectory() ? 'folder' : 'device or pipe'}, wanted a file of text`)
    if (found.size > mostBytes) fail(`: found ${found.size} bytes, wanted at most ${mostBytes}`)
    bytes = readFileSync(path)
  } catch (error) {
    if (error instanceof UserError) throw error
    fail(`: ${(error as Error).message}`)
  }
  const invalid = invalidUtf8(bytes)
  if (invalid >= 0)
    throw new UserError(`${path} is not UTF-8: byte ${invalid} (counted from 0) begins no valid character`)
  const text = bytes.toString('utf8')
  const value = parseYaml(text, path)
  if (isObject(value)) return value
  const found = value === null ? 'nothing' : shown(value)
  throw new UserError(`${path}: found ${found}, wanted keys and values such as "steps: 100"`)
}
