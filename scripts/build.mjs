// Compiles TypeScript to dist/. Run by `npm ci` (prepare), before tests, and by bin/halfbyte.js where dist/ is missing or old.
// With --native also builds the C++ kernels for this machine, so that the first run need not; without a compiler it says so.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const output = join(root, 'dist')

let compiler
try {
  compiler = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
} catch {
  console.error('halfbyte: cannot compile, because TypeScript is not installed; run "npm ci" first')
  process.exit(1)
}
const started = new Date()
const { status } = spawnSync(process.execPath, [compiler, '-p', join(root, 'tsconfig.json')], { stdio: 'inherit' })
if (status !== 0) process.exit(status ?? 1)

// What was compiled from a source that is gone would still be found by the test runner.
for (const folder of ['src', 'test', 'bench', 'presets']) {
  const compiled = join(output, folder)
  if (!existsSync(compiled)) continue
  for (const name of readdirSync(compiled, { recursive: true, encoding: 'utf8' }))
    if (/\.(js|d\.ts)$/.test(name) && !existsSync(join(root, folder, name.replace(/\.(js|d\.ts)$/, '.ts'))))
      rmSync(join(compiled, name))
}
// bin/halfbyte.js compares this file with the sources; one that changed while the compiler ran counts as newer.
const stamp = join(output, 'built')
writeFileSync(stamp, '')
utimesSync(stamp, started, started)

if (process.argv.includes('--native')) {
  const load = path => import(pathToFileURL(join(output, 'src', path)).href)
  const [{ openBackend }, { kernels }] = await Promise.all([load('backends/open.js'), load('kernels/index.js')])
  try {
    const backend = await openBackend('cpu', kernels, { report: message => console.log(`halfbyte: ${message}`) })
    backend.close()
  } catch (error) {
    console.log(`halfbyte: the native kernels are not built: ${error.message}`)
  }
}
