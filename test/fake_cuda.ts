import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { findCompiler } from '../src/backends/native.ts'
import { packageRoot } from '../src/backends/open.ts'

/** NVIDIA's libraries without a GPU (fake_cuda.c), laid out as pip does, with all that they were asked for written down. */
export class FakeCuda {
  readonly folder: string
  /** The folder of the libraries. */
  readonly libraries: string
  readonly #log: string

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'halfbyte-cuda-'))
    after(() => rmSync(this.folder, { recursive: true, force: true }))
    this.#log = join(this.folder, 'log')
    this.libraries = join(this.folder, 'lib', 'python3.12', 'site-packages', 'nvidia', 'cu13', 'lib')
    mkdirSync(this.libraries, { recursive: true })
    const driver = join(this.libraries, 'libcuda.so.1')
    const source = join(packageRoot(), 'test', 'fake_cuda.c')
    const { command, options } = findCompiler()!
    const { status, stderr } = spawnSync(
      command,
      [...options, '-x', 'c', '-O1', '-shared', '-fPIC', source, '-o', driver],
      { encoding: 'utf8' },
    )
    if (status !== 0) throw new Error(stderr)
    for (const name of ['libnvrtc.so.13', 'libcublasLt.so.13']) symlinkSync(driver, join(this.libraries, name))
  }

  /** Runs `body` with the libraries told what `settings` say: versions, a function that fails. */
  with<T>(settings: Readonly<Record<string, string | number>>, body: () => T): T {
    const variables = Object.entries({ LOG: this.#log, ...settings }).map(([name, value]) => {
      const variable = `FAKE_CUDA_${name}`
      return { variable, value: `${value}`, before: process.env[variable] }
    })
    for (const { variable, value } of variables) process.env[variable] = value
    try {
      return body()
    } finally {
      for (const { variable, before } of variables)
        if (before === undefined) delete process.env[variable]
        else process.env[variable] = before
    }
  }

  /** Lines written since the last call. */
  lines(): string[] {
    if (!existsSync(this.#log)) return []
    const lines = readFileSync(this.#log, 'utf8').trim().split('\n')
    rmSync(this.#log)
    return lines
  }
}
