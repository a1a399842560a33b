#!/usr/bin/env node
// The command `halfbyte`: compiles the TypeScript sources if that has not been done, then starts src/cli/main.ts.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const main = join(root, 'dist', 'src', 'cli', 'main.js')
const stamp = join(root, 'dist', 'built')
const builder = join(root, 'scripts', 'build.mjs')

/** True where no finished build is there, or a source is newer than it. */
function stale() {
  if (!existsSync(stamp) || !existsSync(main)) return true
  const built = statSync(stamp).mtimeMs
  for (const folder of ['src', 'presets'])
    if (existsSync(join(root, folder)))
      for (const name of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }))
        if (name.endsWith('.ts') && statSync(join(root, folder, name)).mtimeMs > built) return true
  return false
}

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`halfbyte: needs Node.js 20.19 or newer, this is ${process.versions.node}`)
  process.exit(1)
}
// A package from the registry has no builder: what it ships is complete.
if (existsSync(builder) && stale()) {
  console.error('halfbyte: compiling the TypeScript sources ...')
  const { status } = spawnSync(process.execPath, [builder], { stdio: ['ignore', 2, 2] })
  if (status !== 0) {
    console.error('halfbyte: the sources could not be compiled, see above')
    process.exit(1)
  }
}
const { run } = await import(pathToFileURL(main).href)
await run(process.argv.slice(2))
