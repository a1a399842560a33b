import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, sep } from 'node:path'
import { CorpusError } from './errors.ts'

const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** Files under a folder, at any depth, in the order of their names. */
const filesUnder = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map(name => join(folder, name))
    .filter(path => statSync(path).isFile())
    .sort(byName)

/** `*` and `?` stay within one folder, `**` crosses folders. */
function patternOf(glob: string): RegExp {
  const source = glob.replace(/\*\*\/|\*\*|[*?]|[.+^${}()|[\]\\]/g, token => {
    if (token === '**/') return '(?:.*/)?'
    if (token === '**') return '.*'
    if (token === '*') return '[^/]*'
    return token === '?' ? '[^/]' : `\\${token}`
  })
  return new RegExp(`^${source}$`)
}

function matching(glob: string, what: string): string[] {
  const parts = join(glob).split(sep)
  const wild = parts.findIndex(part => /[*?]/.test(part))
  const folder = parts.slice(0, wild).join(sep) || (glob.startsWith(sep) ? sep : '.')
  const pattern = patternOf(parts.join('/'))
  const found = existsSync(folder) ? filesUnder(folder).filter(path => pattern.test(path.split(sep).join('/'))) : []
  if (found.length === 0) throw new CorpusError(`${what}: no file matches ${glob}`)
  return found
}

const listed = (kinds: readonly string[]): string =>
  kinds.length > 1 ? `${kinds.slice(0, -1).join(', ')} or ${kinds.at(-1)}` : kinds.join()

/** Files named by a path, a folder or a pattern. */
function expand(name: string, kinds: readonly string[], what: string): string[] {
  if (existsSync(name)) {
    if (!statSync(name).isDirectory()) return [name]
    const found = filesUnder(name).filter(path => kinds.some(kind => path.endsWith(kind)))
    if (found.length === 0) throw new CorpusError(`${what}: folder ${name} has no ${listed(kinds)} file`)
    return found
  }
  if (/[*?]/.test(name)) return matching(name, what)
  throw new CorpusError(`${what}: ${name} does not exist (looked from ${process.cwd()})`)
}

/**
 * Files named by paths, folders, which are searched at any depth, and patterns (`*`, `?`, `**`); folders and patterns in the order of names, no
 * file twice.
 * @param kinds Endings of files that folders are searched for, and that any file must have.
 * @param what What named them, for messages.
 */
export function expandPaths(
  names: string | readonly string[],
  kinds: readonly string[],
  what = 'data.files',
): string[] {
  const all = typeof names === 'string' ? [names] : names
  const paths = [...new Set(all.flatMap(name => expand(name, kinds, what)))]
  const other = paths.find(path => !kinds.some(kind => path.endsWith(kind)))
  if (other !== undefined) throw new CorpusError(`${what}: ${other} is not a ${listed(kinds)} file`)
  return paths
}
