import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { UnavailableError } from '../src/backends/errors.ts'
import { packageRoot } from '../src/backends/open.ts'
import { type CommandRow, commands } from '../src/cli/commands.ts'
import { describeFailure, failureLines } from '../src/cli/errors.ts'
import { execute } from '../src/cli/main.ts'
import { renderTable } from '../src/cli/table.ts'
import { UserError } from '../src/config/errors.ts'
import { cliArguments, runCli } from './cli.ts'

describe('command line', () => {
  it('prints help on stdout that lists every command', () => {
    for (const args of [[], ['--help'], ['help'], ['help', 'help']]) {
      const { status, stdout, stderr } = runCli(args)
      assert.deepEqual([status, stderr], [0, ''])
      for (const { name, summary } of commands)
        assert.match(stdout, new RegExp(`^  ${name} .*${summary.slice(0, 20).replace(/[()]/g, '\\$&')}`, 'm'))
    }
  })

  it('teaches each command by examples', () => {
    for (const { name } of commands) {
      const { status, stdout } = runCli(['help', name])
      assert.equal(status, 0, name)
      assert.match(stdout, new RegExp(`^Usage: halfbyte ${name}`), name)
      assert.match(stdout, new RegExp(`^Examples?:\\n +.*halfbyte ${name}`, 'm'), name)
    }
  })

  it('loads no command to print its help', () => {
    const refuse = (name: string): CommandRow => ({
      name,
      summary: 'never loaded',
      load: () => Promise.reject(new Error(`${name} was loaded`)),
    })
    const written: string[] = []
    const write = process.stdout.write
    process.stdout.write = ((text: string) => written.push(text) > 0) as typeof write
    return execute(['--help'], [refuse('one'), refuse('two')])
      .finally(() => (process.stdout.write = write))
      .then(code => {
        assert.equal(code, 0)
        assert.match(written.join(''), /one +never loaded/)
      })
  })

  it('prints the version of the package', () => {
    const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8'))
    assert.deepEqual([runCli(['--version']).stdout, runCli(['-V']).status], [`${version}\n`, 0])
  })

  it('answers a wrong command line with one sentence and exit code 2', () => {
    for (const [args, sentence] of [
      [['doctr'], `halfbyte: unknown command 'doctr', did you mean 'doctor'; "halfbyte help" shows how\n`],
      [['xyzzy'], `halfbyte: unknown command 'xyzzy'; "halfbyte help" shows how\n`],
      [['help', 'trian'], `halfbyte: unknown command 'trian', did you mean 'train'; "halfbyte help" shows how\n`],
      [
        ['doctor', '--jsn'],
        `halfbyte: unknown option '--jsn', did you mean '--json'; "halfbyte help doctor" shows how\n`,
      ],
      [
        ['doctor', 'now'],
        `halfbyte: too many arguments for 'doctor'. Expected 0 arguments but got 1; "halfbyte help doctor" shows how\n`,
      ],
    ] as const) {
      const { status, stdout, stderr } = runCli(args)
      assert.deepEqual([status, stdout, stderr], [2, '', sentence])
    }
  })

  it('outlives a reader that closes the pipe', async () => {
    const child = spawn(process.execPath, cliArguments(['--help']), { stdio: ['ignore', 'pipe', 'pipe'] })
    child.stdout.destroy()
    let errors = ''
    child.stderr.on('data', chunk => (errors += chunk))
    const code = await new Promise(resolve => child.on('close', resolve))
    assert.deepEqual([code, errors], [0, ''])
  })
})

describe('errors', () => {
  const failing = (error: unknown): CommandRow[] => [
    {
      name: 'fail',
      summary: 'fails',
      load: async () => program => {
        program.command('fail').action(() => {
          throw error
        })
      },
    },
  ]

  /** Exit code and stderr of a command that throws. */
  async function outcome(error: unknown): Promise<[number, string]> {
    const written: string[] = []
    const write = process.stderr.write
    process.stderr.write = ((text: string) => written.push(text) > 0) as typeof write
    try {
      return [await execute(['fail'], failing(error)), written.join('')]
    } finally {
      process.stderr.write = write
    }
  }

  it('of the user are one sentence, with the exit code that they carry', async () => {
    assert.deepEqual(await outcome(new UserError('steps: found -1')), [1, 'halfbyte: steps: found -1\n'])
    assert.deepEqual(await outcome(new UserError('no such key', 2)), [2, 'halfbyte: no such key\n'])
    assert.deepEqual(await outcome(new UnavailableError('no compiler')), [1, 'halfbyte: no compiler\n'])
  })

  it('of the system say what they mean and where', () => {
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', path: 'runs/a' })
    assert.deepEqual(failureLines(full, false), ['halfbyte: runs/a: no space is left on the disk (ENOSPC)'])
    const denied = Object.assign(new Error('EACCES'), { code: 'EACCES' })
    assert.deepEqual(failureLines(denied, false), ['halfbyte: permission is denied (EACCES)'])
    const system = { code: 'EXDEV', syscall: 'rename', path: 'a', dest: 'b' }
    const strange = Object.assign(new Error("EXDEV: cross-device link not permitted, rename 'a' -> 'b'"), system)
    assert.deepEqual(failureLines(strange, false), ['halfbyte: a: cross-device link not permitted (EXDEV)'])
  })

  it('with characters that would disturb a terminal show them', () => {
    assert.deepEqual(failureLines(new UserError('a\x1b[31m\rb\x9b'), false), ['halfbyte: a\\x1b[31m\\x0db\\x9b'])
  })

  it('of the program itself are called so, without a trace unless it is asked for', async () => {
    const [code, text] = await outcome(new TypeError('x is not a function\nsecond line'))
    assert.equal(code, 1)
    assert.match(text, /^halfbyte: unexpected error: x is not a function\n\(.*HALFBYTE_DEBUG=1.*\)\n$/)
    assert.match(
      failureLines(new Error('boom'), true).join('\n'),
      /^halfbyte: unexpected error: boom\n +at .*cli\.test/,
    )
    assert.deepEqual(describeFailure('text'), { message: 'text', exitCode: 1, unexpected: true })
  })
})

describe('tables', () => {
  it('set numbers to the right and pad no last column', () => {
    const columns = [{ title: 'name' }, { title: 'size', align: 'right' }, { title: 'note' }] as const
    const rows = [
      ['a', '1,000', 'first'],
      ['longer', '7', ''],
    ]
    assert.equal(renderTable(columns, rows), 'name     size  note\na       1,000  first\nlonger      7')
  })
})

describe('bin/halfbyte.js', () => {
  const root = mkdtempSync(join(tmpdir(), 'halfbyte-shim-'))
  after(() => rmSync(root, { recursive: true }))

  /** A package of the same layout whose builder writes a command line that prints its arguments. */
  function layout(name: string): string {
    const directory = join(root, name)
    for (const folder of ['bin', 'scripts', 'src']) mkdirSync(join(directory, folder), { recursive: true })
    cpSync(join(packageRoot(), 'bin', 'halfbyte.js'), join(directory, 'bin', 'halfbyte.js'))
    writeFileSync(join(directory, 'package.json'), '{ "type": "module" }')
    writeFileSync(join(directory, 'src', 'a.ts'), '')
    writeFileSync(
      join(directory, 'scripts', 'build.mjs'),
      `import { mkdirSync, writeFileSync } from 'node:fs'
mkdirSync('dist/src/cli', { recursive: true })
writeFileSync('dist/src/cli/main.js', 'export const run = args => console.log(args.join())')
writeFileSync('dist/built', '')`,
    )
    return directory
  }
  const start = (directory: string, ...args: string[]) =>
    spawnSync(process.execPath, [join(directory, 'bin', 'halfbyte.js'), ...args], { cwd: directory, encoding: 'utf8' })

  it('builds what is not built, says so, and builds again only when a source is newer', () => {
    const directory = layout('fresh')
    const first = start(directory, 'a', 'b')
    assert.deepEqual(
      [first.status, first.stdout, first.stderr],
      [0, 'a,b\n', 'halfbyte: compiling the TypeScript sources ...\n'],
    )
    assert.equal(start(directory, 'c').stderr, '')
    const later = new Date(Date.now() + 5000)
    utimesSync(join(directory, 'src', 'a.ts'), later, later)
    assert.match(start(directory, 'd').stderr, /^halfbyte: compiling/)
  })

  it('works through a link, as package managers install it', { skip: process.platform === 'win32' }, () => {
    const directory = layout('linked')
    symlinkSync(join(directory, 'bin', 'halfbyte.js'), join(directory, 'link.js'))
    const { stdout } = spawnSync(process.execPath, [join(directory, 'link.js'), 'x'], {
      cwd: directory,
      encoding: 'utf8',
    })
    assert.equal(stdout, 'x\n')
  })

  it('stops with exit code 1 when the sources do not compile', () => {
    const directory = layout('broken')
    writeFileSync(join(directory, 'scripts', 'build.mjs'), 'console.error("a.ts: wrong type"); process.exit(2)')
    const { status, stderr } = start(directory, 'a')
    assert.equal(status, 1)
    assert.match(stderr, /a\.ts: wrong type\nhalfbyte: the sources could not be compiled, see above\n$/)
  })

  it('starts a package that was published built, without a builder', () => {
    const directory = layout('published')
    start(directory, 'a')
    rmSync(join(directory, 'scripts'), { recursive: true })
    const { stdout, stderr } = start(directory, 'b')
    assert.deepEqual([stdout, stderr], ['b\n', ''])
  })
})
