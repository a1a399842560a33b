import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { describe, it } from 'node:test'
import { packageRoot } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'

/** The shape of the source tree, checked mechanically: docs/architecture.md, "Order of imports". */

const root = packageRoot()
const source = join(root, 'src')
const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).map(file => file.replaceAll('\\', '/'))
const lineCount = (file: string) => readFileSync(file, 'utf8').split('\n').length - 1

/** They read run directories and never reach the trainer, nor it them, nor one another. */
const readers = ['compare', 'export', 'report']
/** The report is of comparisons. */
const reads: Readonly<Record<string, string>> = { report: 'compare' }

/** Folders of src from the ground up; a file imports from its own folder and from those before it. */
const order = [
  'formats',
  'recipes',
  'tensor',
  'kernels',
  'backends',
  'ops',
  'model',
  'data',
  'config',
  'run',
  ...readers,
  'train',
  'analysis',
  'cli',
]

/** Folders before one in the order that it must not import all the same. */
const apart: Readonly<Record<string, readonly string[]>> = {
  backends: ['kernels'],
  kernels: ['backends'],
  ops: ['backends'],
  model: ['kernels', 'backends'],
  data: ['kernels', 'backends', 'ops', 'model'],
  config: ['kernels', 'backends', 'ops'],
  run: ['kernels', 'backends', 'ops'],
  ...Object.fromEntries(
    readers.map(reader => [
      reader,
      ['kernels', 'backends', 'ops', ...readers.filter(other => other !== reads[reader])],
    ]),
  ),
  train: ['backends', ...readers],
  analysis: ['kernels', 'backends', ...readers.filter(reader => reader !== 'compare')],
}

/** Path below src of every module that a file of src imports, tests of one file beside it left out. */
const importsOf = (file: string): string[] => {
  const text = readFileSync(join(source, file), 'utf8')
  const specifiers = [...text.matchAll(/(?:\bfrom|\bimport\(?)\s*'(\.[^']+)'/g)].map(match => match[1]!)
  return specifiers.map(specifier => posix.normalize(posix.join(dirname(file), specifier)))
}

const modules = files.filter(file => file.endsWith('.ts') && !file.endsWith('.test.ts') && !file.endsWith('.long.ts'))
const folderOf = (file: string): string => (file.includes('/') ? file.slice(0, file.indexOf('/')) : '')

describe('order of imports', () => {
  it('knows every folder of src, and no other', () => {
    assert.deepEqual(new Set(modules.map(folderOf).filter(folder => folder !== '')), new Set(order))
  })

  it('is never gone against', () => {
    const wrong: string[] = []
    for (const file of modules.filter(file => folderOf(file) !== ''))
      for (const target of importsOf(file)) {
        const [from, to] = [folderOf(file), folderOf(target)]
        if (target.startsWith('..')) {
          if (from !== 'cli' || !target.startsWith('../presets/')) wrong.push(`${file} imports ${target}, outside src`)
        } else if (from !== to && (order.indexOf(to) >= order.indexOf(from) || apart[from]?.includes(to)))
          wrong.push(`${file} imports ${target}`)
      }
    assert.deepEqual(wrong, [])
  })

  it('is seen by the search: the tape of ops is found to import tensors', () => {
    assert.ok(importsOf('ops/tape.ts').includes('tensor/arena.ts'))
    assert.ok(importsOf('cli/commands.ts').includes('cli/doctor.ts'))
  })

  it('has every relative import lead to a file', () => {
    const lost = modules.flatMap(file =>
      importsOf(file)
        .filter(target => !existsSync(join(source, target)))
        .map(target => `${file} imports ${target}`),
    )
    assert.deepEqual(lost, [])
  })
})

describe('shape of the tree', () => {
  it('has no file that is too long to read', () => {
    const places = ['src', 'test', 'bench', 'presets', 'scripts', 'bin'].filter(place => existsSync(join(root, place)))
    const long = places
      .flatMap(place => readdirSync(join(root, place), { recursive: true, encoding: 'utf8' }).map(f => join(place, f)))
      .filter(file => /\.(ts|js|mjs|cpp|h|cu|py)$/.test(file))
      .map(file => ({ file, lines: lineCount(join(root, file)), limit: file.endsWith('.cu') ? 600 : 400 }))
      .filter(({ lines, limit }) => lines > limit)
    assert.deepEqual(long, [])
  })

  it('has no place for what has no place', () => {
    assert.deepEqual(
      files.filter(file => /(^|\/)(utils?|helpers?|common|misc)(\.ts|\/|$)/i.test(file)),
      [],
    )
  })

  it('gives every kernel a contract and a C++ file of its name', () => {
    const folders = readdirSync(join(source, 'kernels'), { withFileTypes: true })
      .filter(entry => entry.isDirectory() && entry.name !== 'shared')
      .map(entry => entry.name)
    const missing = folders
      .flatMap(folder => [`kernels/${folder}/${folder}.ts`, `kernels/${folder}/${folder}.cpp`])
      .filter(file => !files.includes(file))
    assert.deepEqual(missing, [])
    assert.ok(folders.length > 0)
  })

  it('lists every kernel once, each with cases', () => {
    const names = kernels.map(({ name }) => name)
    assert.deepEqual(
      names.filter((name, i) => names.indexOf(name) !== i),
      [],
    )
    assert.deepEqual(
      kernels.filter(({ cases }) => !cases.some(testCase => !testCase.bench)).map(({ name }) => name),
      [],
    )
    const contracts = modules
      .filter(file => file.startsWith('kernels/'))
      .flatMap(file => [...readFileSync(join(source, file), 'utf8').matchAll(/^ {2}name: '([a-z0-9_]+)',$/gm)])
      .map(match => match[1]!)
    assert.deepEqual(
      contracts.filter(name => !names.includes(name)),
      [],
      'kernels that src/kernels/index.ts does not list',
    )
  })
})
