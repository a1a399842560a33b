import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'

/**
 * Finds the compiled tests (`*.test.js`, or `*.long.js` for the long campaigns) and hands them to node's test runner:
 * `node dist/test/run.js quick|long [part of a file's name ...]`. Node 20's runner has no globs of its own.
 */
const long = process.argv[2] === 'long'
const suffix = long ? '.long.js' : '.test.js'
const only = process.argv.slice(3)
const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith(suffix) && (only.length === 0 || only.some(part => file.includes(part))))
  .sort()
  .map(file => join(root, file))
if (files.length === 0) {
  // Without a file node would search for tests by itself.
  console.error(`no test file ends in ${suffix}${only.length > 0 ? ` and contains ${only.join(' or ')}` : ''}`)
  process.exit(1)
}
// The native kernels of every level that this machine has, once, instead of in every test process at the same time.
const features = cpuFeatures()
for (const { name } of levels.filter(({ needs }) => needs.every(feature => features.has(feature))))
  (await openBackend('cpu', kernels, { level: name, report: line => console.log(line) })).close()

const minutes = long ? 25 : 6
const options = ['--test', '--test-concurrency=2', '--test-reporter=spec', `--test-timeout=${minutes * 60_000}`]
const { status } = spawnSync(process.execPath, [...options, ...files], { stdio: 'inherit' })
process.exit(status ?? 1)
