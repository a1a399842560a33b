import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import { commands } from '../src/cli/commands.ts'
import { configKeys, schemaAt } from '../src/config/keys.ts'
import { recipes } from '../src/recipes/recipes.ts'

/** What the documents name must exist. */

const root = packageRoot()
/** Without blocks of code. */
const read = (file: string): string => readFileSync(join(root, file), 'utf8').replace(/^```[\s\S]*?^```/gm, '')
const readme = read('README.md')
const documents = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map(f => join('docs', f)),
].filter(file => file.endsWith('.md'))

/** The first cells of a table under a heading of the readme, what is between backquotes. */
function firstCells(heading: string): string[] {
  const section = readme.slice(readme.indexOf(`## ${heading}\n`)).split('\n## ')[0]!
  return section
    .split('\n')
    .filter(line => line.startsWith('| `'))
    .slice(heading === 'Commands' ? 1 : 0)
    .flatMap(line => [...line.split(' | ')[0]!.matchAll(/`([^`]+)`/g)].map(match => match[1]!))
}

describe('documents', () => {
  it('link to files that exist', () => {
    const broken = documents.flatMap(file =>
      [...read(file).matchAll(/\]\(([^)#\s]+)/g)]
        .map(match => match[1]!)
        .filter(target => !/^https?:/.test(target) && !existsSync(join(root, dirname(file), target)))
        .map(target => `${file}: ${target}`),
    )
    assert.deepEqual(broken, [])
    assert.ok(documents.length > 5)
  })

  it('name source files that exist', () => {
    const broken = documents.flatMap(file =>
      [...read(file).matchAll(/`((?:src|test|presets|scripts|bench|docs)\/[\w/.-]+)`/g)]
        .map(match => match[1]!)
        .filter(target => !existsSync(join(root, target)))
        .map(target => `${file}: ${target}`),
    )
    assert.deepEqual(broken, [])
  })

  it('have the sections of docs/numerics.md that sources refer to', () => {
    const numerics = readFileSync(join(root, 'docs', 'numerics.md'), 'utf8')
    const titles = new Set([...numerics.matchAll(/^#+ (.+)$|^\*\*([^*]+)\.\*\*/gm)].map(match => match[1] ?? match[2]!))
    const cited: string[] = []
    for (const folder of ['src', 'bench', 'presets', 'test'])
      for (const file of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })) {
        if (!/\.(ts|h|cpp|cu)$/.test(file)) continue
        const text = readFileSync(join(root, folder, file), 'utf8').replace(/\n\s*(\*|\/\/)/g, '')
        for (const [, list] of text.matchAll(/(?:numerics\.md,|\bsection) ((?:"[^"\n]+"(?:, | and )?)+)/g))
          for (const [, title] of list!.matchAll(/"([^"]+)"/g)) cited.push(`${folder}/${file}: ${title}`)
      }
    assert.ok(cited.length > 30, `${cited.length} references`)
    assert.deepEqual(
      cited.filter(reference => !titles.has(reference.slice(reference.indexOf(': ') + 2))),
      [],
    )
  })

  it('list every command in the readme, and no other', () => {
    assert.deepEqual(
      firstCells('Commands')
        .map(cell => cell.split(' ')[0]!)
        .sort(),
      commands.map(({ name }) => name).sort(),
    )
  })

  it('list every key of a config with its default', () => {
    const rows = [...read('docs/config.md').matchAll(/^\| `([\w.]+)` \| (.*?) \|/gm)].map(match => [match[1], match[2]])
    const defaultOf = (key: string): string => {
      const { type, defaultValue } = schemaAt(key)!._zod.def as { type: string; defaultValue?: unknown }
      if (type !== 'default') return type === 'optional' ? 'absent' : 'needed'
      return `\`${typeof defaultValue === 'string' ? defaultValue : JSON.stringify(defaultValue)}\``
    }
    assert.deepEqual(
      rows,
      configKeys.map(key => [key, defaultOf(key)]),
    )
  })

  it('list recipes in the readme that exist', () => {
    const named = firstCells('Recipes')
    assert.ok(named.length > 10)
    assert.deepEqual(
      named.filter(name => !Object.hasOwn(recipes, name)),
      [],
    )
  })
})
