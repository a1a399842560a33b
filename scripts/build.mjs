// Compiles TypeScript to dist/. Run by `npm ci` (prepare) and before tests; also by bin/halfbyte.js where dist/ is missing.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
let compiler
try {
  compiler = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
} catch {
  console.error('halfbyte: cannot build, because TypeScript is not installed; run "npm ci" first')
  process.exit(1)
}
const { status } = spawnSync(process.execPath, [compiler, '-p', join(root, 'tsconfig.json')], { stdio: 'inherit' })
process.exit(status ?? 1)
