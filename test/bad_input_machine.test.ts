import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { packageRoot } from '../src/backends/open.ts'
import { listCheckpoints } from '../src/run/checkpoint.ts'
import { readEvents } from '../src/run/read.ts'
import { cliArguments, runCli } from './cli.ts'
import { sameRun, startUntilRecords } from './resume.ts'
import { configFile, testFolder } from './training.ts'

/** What a machine does to a run: damaged files, a full disk, no compiler. One sentence each, and nothing is lost. */

const folder = testFolder()
const config = configFile(folder, 'steps=40', 'checkpoint.every=5', 'validation.every=0')
const undisturbed = join(folder, 'undisturbed')
const interrupted = join(folder, 'interrupted')
let steps: number[]

before(async () => {
  assert.equal(runCli(['train', config, '--run', undisturbed]).status, 0)
  const { child, ended } = await startUntilRecords(['train', config, '--run', interrupted], interrupted, 12)
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
  steps = listCheckpoints(interrupted)
  assert.equal(steps.length, 2)
})

function copyOf(run: string, name: string): string {
  const copy = join(folder, name)
  cpSync(run, copy, { recursive: true })
  return copy
}
const fileOf = (run: string, step: number, name = 'model.safetensors'): string =>
  join(run, 'checkpoints', String(step), name)

/** Flips one bit in the middle of a file. */
function flipBit(path: string): void {
  const bytes = readFileSync(path)
  bytes[bytes.length >> 1]! ^= 16
  writeFileSync(path, bytes)
}
const truncate = (path: string): void => truncateSync(path, readFileSync(path).length - 1)

describe('a damaged checkpoint', () => {
  for (const [what, damage, reason] of [
    ['truncated', truncate, /model\.safetensors is truncated: found \d+ bytes, wanted \d+/],
    ['with a flipped bit', flipBit, /model\.safetensors is damaged: its SHA-256 is not the one in state\.json/],
  ] as const)
    it(`${what} is passed over for the older one, recorded, and trained over to the same bits`, () => {
      const run = copyOf(interrupted, what.replaceAll(' ', '-'))
      damage(fileOf(run, steps[1]!))
      const { status, stdout, stderr } = runCli(['resume', run])
      assert.equal(status, 0, stderr)
      assert.match(stderr, new RegExp(`^halfbyte: [^\n]*${reason.source}[^\n]*; going on from step ${steps[0]}\n$`))
      assert.match(stdout, new RegExp(`going on after step ${steps[0]}\n`))
      const event = [...readEvents(run)].find(({ event }) => event === 'damaged_checkpoint')
      assert.match(event?.reason as string, reason)
      sameRun(run, undisturbed)
    })

  it('without an older one ends the command, and stays as it is', () => {
    const run = copyOf(interrupted, 'all-damaged')
    for (const step of steps) flipBit(fileOf(run, step, 'optimizer.safetensors'))
    const before = steps.map(step => readFileSync(fileOf(run, step, 'optimizer.safetensors')))
    for (const command of [
      ['resume', run],
      ['train', config, '--run', run],
      ['sample', run],
    ]) {
      const { status, stderr } = runCli(command)
      assert.equal(status, 1)
      assert.match(
        stderr,
        /^halfbyte: [^\n]*optimizer\.safetensors is damaged: [^\n]*; no older checkpoint is intact\n$/,
      )
    }
    assert.deepEqual(
      steps.map(step => readFileSync(fileOf(run, step, 'optimizer.safetensors'))),
      before,
    )
  })
})

describe('a disk that is full', () => {
  /** A file system of its own for a command: 1 MB, which two checkpoints fit into but no three. */
  const mount = join(folder, 'disk')
  const inSmallDisk = (kilobytes: number, script: string) =>
    spawnSync(
      'unshare',
      ['--map-root-user', '--mount', 'sh', '-ec', `mount -t tmpfs -o size=${kilobytes}k tmpfs "${mount}"; ${script}`],
      {
        encoding: 'utf8',
      },
    )
  mkdirSync(mount)
  const skip = inSmallDisk(64, 'true').status === 0 ? false : 'this system lets no user mount a file system (unshare)'

  it('ends training with a sentence and leaves the older checkpoint whole', { skip }, () => {
    const run = join(mount, 'run')
    const size = ['model.safetensors', 'optimizer.safetensors'].reduce(
      (sum, name) => sum + readFileSync(fileOf(undisturbed, 40, name)).length,
      0,
    )
    const command = [process.execPath, ...cliArguments(['train', config, 'checkpoint.keep=5', '--run', run])]
      .map(word => `'${word}'`)
      .join(' ')
    const kept = join(folder, 'kept')
    const { stdout, stderr } = inSmallDisk(
      Math.ceil((2.5 * size) / 1024),
      `${command} || echo "ended with $?"; cp -a '${run}' '${kept}'`,
    )
    assert.match(stdout, /^ended with 1$/m)
    assert.match(
      stderr,
      /^halfbyte: the checkpoint of step 15 cannot be saved in \S+checkpoints: ENOSPC: no space left on device; the one of step 10 stays\n$/,
    )
    assert.deepEqual(listCheckpoints(kept), [5, 10])
    assert.deepEqual(readdirSync(join(kept, 'checkpoints')).sort(), ['10', '5'])
    const { status, stdout: resumed } = runCli(['resume', kept])
    assert.equal(status, 0)
    assert.match(resumed, /going on after step 10\n/)
  })
})

describe('output that cannot be written', { skip: existsSync('/dev/full') ? false : 'no /dev/full here' }, () => {
  it('is told of once, and ends no work', () => {
    const run = join(folder, 'unseen')
    const command = (args: readonly string[]) => {
      const words = [process.execPath, ...cliArguments(args)].map(word => `'${word}'`)
      return spawnSync('sh', ['-c', `${words.join(' ')} > /dev/full`], { encoding: 'utf8' })
    }
    for (const args of [['presets'], ['train', config, 'steps=2', '--run', run]]) {
      const { status, stderr } = command(args)
      assert.equal(stderr, 'halfbyte: standard output cannot be written: no space is left on the disk (ENOSPC)\n')
      assert.equal(status, 1)
    }
    assert.deepEqual(listCheckpoints(run), [2])
  })

  it('of tokenize names the folder', () => {
    const out = join(folder, 'shards')
    const words = ['tokenize', join(folder, 'text.txt'), '--tokenizer', 'bytes', '--workers', '1', '--out', out]
    const quoted = [process.execPath, ...cliArguments(words)].map(word => `'${word}'`)
    const limited = spawnSync('sh', ['-c', `trap '' XFSZ; ulimit -f 8; ${quoted.join(' ')}`], { encoding: 'utf8' })
    assert.equal(limited.stderr, `halfbyte: ${out} cannot be written: EFBIG: file too large\n`)
    assert.equal(limited.status, 1)
  })
})

describe('a machine without a C++ compiler', () => {
  it('is told so, with what to do, and the reference backend works there', () => {
    const copy = join(folder, 'package')
    const root = packageRoot()
    const built = dirname(dirname(fileURLToPath(import.meta.url)))
    mkdirSync(join(copy, 'dist'), { recursive: true })
    for (const part of ['src', 'presets']) cpSync(join(built, part), join(copy, 'dist', part), { recursive: true })
    cpSync(join(root, 'src', 'kernels'), join(copy, 'src', 'kernels'), { recursive: true })
    cpSync(join(root, 'package.json'), join(copy, 'package.json'))
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
    const main = join(copy, 'dist', 'src', 'cli', 'main.js')
    const start = (...overrides: string[]) =>
      spawnSync(
        process.execPath,
        [
          '--input-type=module',
          '-e',
          `import { run } from '${main}'; await run(process.argv.slice(1))`,
          '--',
          'train',
          config,
          ...overrides,
        ],
        { cwd: folder, env: { HOME: join(copy, 'home'), PATH: join(copy, 'empty'), TMPDIR: copy }, encoding: 'utf8' },
      )
    const { status, stderr } = start('--run', join(folder, 'never'))
    assert.equal(status, 1)
    assert.match(
      stderr,
      /^halfbyte: no C\+\+ compiler found \(tried c\+\+, g\+\+, clang\+\+\): install one \([^\n]*\), or use backend=reference\n$/,
    )
    assert.ok(!existsSync(join(folder, 'never')))
    const reference = start(
      'backend=reference',
      'steps=1',
      'data.batch=1',
      'data.micro_batch=1',
      'validation.batches=1',
      '--run',
      join(folder, 'reference'),
    )
    assert.deepEqual([reference.status, reference.stderr], [0, ''])
  })
})
