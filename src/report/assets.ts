import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Style sheet and script of the page, which it holds as they are. */
export interface Assets {
  readonly css: string
  readonly script: string
}

/** Modules of the page's script, each after those that it imports. */
const modules = ['reading.js', 'charts.js', 'heat_maps.js', 'page.js']

/**
 * One script of modules that import nothing but one another: a page in one file has no addresses to import from. Their top-level names must
 * differ, or the browser refuses the whole.
 */
const joined = (texts: readonly string[]): string =>
  texts.map(text => text.replace(/^import [^']*'\.\/[\w.]+'\n/gm, '').replace(/^export /gm, '')).join('\n')

/** @param root of the package, which ships its sources. */
export function readAssets(root: string): Assets {
  const read = (name: string) => readFileSync(join(root, 'src', 'report', name), 'utf8')
  return { css: read('report.css'), script: `{\n${joined(modules.map(read))}}\n` }
}
