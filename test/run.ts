import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Finds the compiled tests (`*.test.js`, or `*.long.js` for the long campaigns) and hands them to node's test runner. */
const suffix = process.argv[2] === 'long' ? '.long.js' : '.test.js'
const only = process.argv.slice(3)
const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith(suffix) && (only.length === 0 || only.some(part => file.includes(part))))
  .sort()
  .map(file => join(root, file))
const { status } = spawnSync(process.execPath, ['--test', '--test-concurrency=2', ...files], { stdio: 'inherit' })
process.exit(status ?? 1)
