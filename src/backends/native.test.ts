import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { buildNative, CompilerError } from './native.ts'

const root = mkdtempSync(join(tmpdir(), 'halfbyte-native-'))
const given = process.env.CXX
after(() => {
  rmSync(root, { recursive: true })
  if (given === undefined) delete process.env.CXX
  else process.env.CXX = given
})

/** A compiler that writes down what it is asked to make, and makes it empty; it fails at sources that say `error`. */
const compiler = join(root, 'compiler')
const log = join(root, 'made')
writeFileSync(
  compiler,
  `#!/bin/sh
[ "$1" = --version ] && echo "compiler 1" && exit 0
for word; do case "$previous" in -o) out=$word;; -c) grep -q error "$word" && { echo "$word is wrong" >&2; exit 1; };; esac; previous=$word; done
: > "$out"
echo "$*" | grep -o '[a-z]*\\.cpp\\|-shared' >> '${log}'
`,
)
chmodSync(compiler, 0o755)

const sources = join(root, 'kernels')
mkdirSync(join(sources, 'shared'), { recursive: true })
const put = (name: string, text: string) => writeFileSync(join(sources, name), text)
put('shared/both.h', '#pragma once')
put('one.cpp', '#include "both.h"')
put('two.cpp', '')

const level = { name: 'plain', flags: [], needs: [] }
const cache = join(root, 'dist', 'native')
/** Builds; returns the library and what was compiled for it. */
async function build(): Promise<{ library: string; made: string[] }> {
  writeFileSync(log, '')
  const library = await buildNative([], sources, root, level, () => {})
  assert.ok(existsSync(library))
  return { library, made: readFileSync(log, 'utf8').split('\n').filter(Boolean).sort() }
}

describe('building the native kernels', () => {
  it('compiles what has changed, and nothing where nothing has', async () => {
    process.env.CXX = compiler
    const first = await build()
    assert.deepEqual(first.made, ['-shared', 'one.cpp', 'two.cpp'])
    assert.deepEqual(await build(), { library: first.library, made: [] })
    put('shared/both.h', '#pragma once // changed')
    const second = await build()
    assert.deepEqual(second.made, ['-shared', 'one.cpp'])
    assert.notEqual(second.library, first.library)
  })

  it('says which file does not compile, and leaves nothing half-written', async () => {
    process.env.CXX = compiler
    put('two.cpp', 'error')
    await assert.rejects(
      build(),
      (error: Error) => error instanceof CompilerError && /two\.cpp is wrong/.test(error.message),
    )
    put('two.cpp', '')
    assert.deepEqual(
      readdirSync(cache).filter(name => !/\.(o|so)$/.test(name)),
      [],
    )
  })

  it('removes what builds that were killed left behind, and not what others are building', async () => {
    process.env.CXX = compiler
    const [abandoned, another] = ['build-aaaaaa', 'build-bbbbbb'].map(name => join(cache, name))
    for (const folder of [abandoned!, another!]) mkdirSync(folder)
    utimesSync(abandoned!, 1e9, 1e9)
    put('one.cpp', '#include "both.h"\n// changed')
    await build()
    assert.deepEqual(
      [abandoned, another].map(folder => existsSync(folder!)),
      [false, true],
    )
  })

  it('takes a compiler with options', async () => {
    process.env.CXX = `env ${compiler}`
    assert.deepEqual((await build()).made, ['-shared', 'one.cpp', 'two.cpp'])
  })

  it('names the compilers that it looked for', async () => {
    process.env.CXX = join(root, 'nowhere')
    await assert.rejects(build(), /no C\+\+ compiler found \(tried \S+nowhere\): install one/)
  })
})
