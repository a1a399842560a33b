import { existsSync, mkdirSync, readdirSync, realpathSync, statSync } from 'node:fs'
import { dirname, join, sep } from 'node:path'
import { CorpusError } from './errors.ts'

const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/**
 * Files under a folder whose path is wanted, at any depth, in the order of their names. A link to a folder is followed unless it leads back
 * to one that it is in.
 */
function filesUnder(folder: string, isWanted: (path: string) => boolean): string[] {
  const found: string[] = []
  const visit = (place: string, above: readonly string[]): void => {
    const real = realpathSync(place)
    if (above.includes(real)) return
    for (const entry of readdirSync(place, { withFileTypes: true })) {
      const path = join(place, entry.name)
      const isLink = entry.isSymbolicLink()
      const target = isLink && (isWanted(path) || existsSync(path)) ? statSync(path) : entry
      if (target.isDirectory()) visit(path, [...above, real])
      else if (target.isFile() && isWanted(path)) found.push(path)
    }
  }
  visit(folder, [])
  return found.sort(byName)
}

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
  const found = existsSync(folder) ? filesUnder(folder, path => pattern.test(path.split(sep).join('/'))) : []
  if (found.length === 0) throw new CorpusError(`${what}: no file matches ${glob}`)
  return found
}

const listed = (kinds: readonly string[]): string =>
  kinds.length > 1 ? `${kinds.slice(0, -1).join(', ')} or ${kinds.at(-1)}` : kinds.join()

/** Files named by a path, a folder or a pattern. */
function expand(name: string, kinds: readonly string[], what: string): string[] {
  if (existsSync(name)) {
    const named = statSync(name)
    if (named.isFile()) return [name]
    if (!named.isDirectory()) throw new CorpusError(`${what}: ${name} is a device or pipe, wanted a file`)
    const found = filesUnder(name, path => kinds.some(kind => path.endsWith(kind)))
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

/**
 * Creates a folder and those above it that are missing. Node's `recursive` would try for ever where the system says that a folder is missing
 * although the one above it is there, as in /proc or behind a link that leads nowhere.
 */
export function makeDirectory(path: string): void {
  if (existsSync(path)) return
  try {
    makeOne(path)
  } catch (error) {
    const above = dirname(path)
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || existsSync(above)) throw error
    makeDirectory(above)
    makeOne(path)
  }
}

/** Creates a folder, unless another process has made it by now. */
function makeOne(path: string): void {
  try {
    mkdirSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
