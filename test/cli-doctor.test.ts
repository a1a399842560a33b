import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { libraryDirectories } from '../src/backends/cuda/libraries.ts'
import { report, verdict } from '../src/cli/doctor.ts'
import {
  checkCompiler,
  checkDisk,
  checkGpu,
  checkLibraries,
  checkMemory,
  checkNode,
  checkProcessor,
  findLibrary,
} from '../src/cli/machine.ts'
import { runCli } from './cli.ts'

const folder = mkdtempSync(join(tmpdir(), 'halfbyte-doctor-'))
after(() => rmSync(folder, { recursive: true }))

describe('doctor', () => {
  it('reports this machine as JSON and as lines, with the same checks', () => {
    const { status, stdout } = runCli(['doctor', '--json'])
    const { trains, checks } = JSON.parse(stdout) as { trains: boolean; checks: { name: string; state: string }[] }
    assert.deepEqual([status, trains], [0, true])
    const names = checks.map(({ name }) => name)
    for (const name of ['node', 'processor', 'threads', 'memory', 'compiler', 'cache', 'kernels', 'disk', 'gpu'])
      assert.ok(names.includes(name), `no check of ${name}`)
    const lines = runCli(['doctor']).stdout.trimEnd().split('\n')
    assert.deepEqual(
      lines.filter(line => /^\S/.test(line)).map(line => line.split(/ +/).slice(0, 2)),
      checks.map(({ name, state }) => [state, name]),
    )
  })

  it('still ends well without a compiler, and says what to do', () => {
    const { status, stdout, stderr } = runCli(['doctor'], { env: { CXX: '/nowhere/c++' } })
    assert.deepEqual([status, stderr], [0, ''])
    assert.match(
      stdout,
      /^missing +compiler +no C\+\+ compiler \(tried CXX=\/nowhere\/c\+\+\).*\n +→ install one: "apt/m,
    )
    assert.match(stdout, /^missing +kernels +the C\+\+ kernels are not built/m)
  })

  it('fails only where nothing can train', () => {
    const missing = (name: string) => ({ name, state: 'missing' as const, found: '' })
    assert.equal(verdict([missing('compiler'), missing('kernels'), missing('libnvrtc')]), 0)
    assert.equal(verdict([missing('node')]), 1)
    assert.equal(verdict([{ ...missing('node'), state: 'ok' }]), 0)
  })

  it('puts advice below its line', () => {
    const checks = [
      { name: 'node', state: 'ok', found: '20.19.0' },
      { name: 'compiler', state: 'missing', found: 'none', advice: 'install one' },
    ] as const
    assert.equal(
      report(checks),
      'ok       node      20.19.0\nmissing  compiler  none\n                   → install one',
    )
  })
})

describe('checks of a machine', () => {
  it('choose the level by the processor and say what better ones need', () => {
    const old = checkProcessor('Old CPU', new Set(['avx2', 'fma', 'bmi2', 'f16c', 'avx512f']))
    assert.match(old.found, /^Old CPU \(avx2 fma f16c avx512f\): level avx2, avx512 needs avx512bw, .*avx512_vnni/)
    assert.match(checkProcessor('ARM', new Set()).found, /^ARM: level portable, others are for x86-64 /)
  })

  it('want Node 20.19', () => {
    const states = ['18.20.0', '20.18.3', '20.19.0', '22.1.0'].map(version => checkNode(version).state)
    assert.deepEqual(states, ['missing', 'missing', 'ok', 'ok'])
  })

  it('know a limit of memory below that of the machine', () => {
    const gibibyte = 2 ** 30
    assert.equal(checkMemory(8 * gibibyte, 4 * gibibyte, 0).found, '8.0 GiB, 4.0 GiB free')
    const limited = checkMemory(8 * gibibyte, 4 * gibibyte, gibibyte)
    assert.match(limited.found, /may use 1\.0 GiB$/)
    assert.equal(limited.state, 'missing')
  })

  it('name the compiler', () => {
    assert.equal(checkCompiler({ command: 'g++', options: [], version: 'g++ 12' }).found, 'g++: g++ 12')
    assert.equal(checkCompiler({ command: 'ccache', options: ['g++'], version: 'g++ 12' }).found, 'ccache g++: g++ 12')
  })

  it('want a directory for runs', () => {
    assert.equal(checkDisk(folder).state, 'ok')
    const absent = checkDisk(join(folder, 'absent'))
    assert.deepEqual([absent.state, absent.found], ['missing', `${join(folder, 'absent')} cannot be written`])
  })

  it('list GPUs, and say how to train on one', () => {
    const gpus = [['NVIDIA H200', '143771', '9.0', '580.65']]
    assert.equal(
      checkGpu(gpus).found,
      'NVIDIA H200 (143771 MiB, compute 9.0), driver 580.65; to train on it: backend=cuda',
    )
  })

  it('find libraries of the linker path and of wheels, newest first, with their versions', () => {
    const linker = join(folder, 'linker')
    const wheel = join(folder, 'venv', 'lib', 'python3.11', 'site-packages', 'nvidia', 'cu13', 'lib')
    for (const directory of [linker, wheel]) mkdirSync(directory, { recursive: true })
    writeFileSync(join(linker, 'libcuda.so.580.65.06'), '')
    symlinkSync('libcuda.so.580.65.06', join(linker, 'libcuda.so.1'))
    writeFileSync(join(linker, 'libcudart.so.12'), '')
    writeFileSync(join(wheel, 'libnvrtc.so.13'), '')
    const directories = libraryDirectories({ LD_LIBRARY_PATH: linker, VIRTUAL_ENV: join(folder, 'venv') })
    assert.equal(directories[0], linker)
    assert.ok(directories.includes(wheel))
    assert.equal(findLibrary('cuda', directories)?.version, '580.65.06')
    assert.deepEqual(findLibrary('nvrtc', directories), { path: join(wheel, 'libnvrtc.so.13'), version: '13' })
    assert.equal(findLibrary('cublasLt', [linker, wheel]), undefined)
    const byName = (hasGpu: boolean) =>
      Object.fromEntries(checkLibraries(hasGpu, [linker, wheel]).map(({ name, state }) => [name, state]))
    assert.deepEqual(byName(true), { libcuda: 'ok', libnvrtc: 'ok', libcublasLt: 'missing' })
    assert.equal(byName(false).libcublasLt, 'absent')
  })
})
