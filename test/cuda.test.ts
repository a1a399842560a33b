import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { failedCases } from '../bench/gpu_kernels.ts'
import type { CudaBackend } from '../src/backends/cuda/backend.ts'
import { CompiledCache } from '../src/backends/cuda/cache.ts'
import { libraryDirectories } from '../src/backends/cuda/libraries.ts'
import { cudaSources, entriesOf } from '../src/backends/cuda/modules.ts'
import { architectureOf } from '../src/backends/cuda/nvrtc.ts'
import { openCuda } from '../src/backends/cuda/open.ts'
import { UnavailableError } from '../src/backends/errors.ts'
import { packageRoot } from '../src/backends/open.ts'
import { referenceBackend } from '../src/backends/reference.ts'
import { swizzleOffset } from '../src/formats/swizzle.ts'
import { add } from '../src/kernels/add/add.ts'
import { gemmNn, gemmNt, gemmTn, gemmTt } from '../src/kernels/gemm/gemm.ts'
import { gemmNvfp4 } from '../src/kernels/gemm_nvfp4/gemm_nvfp4.ts'
import { kernels } from '../src/kernels/index.ts'
import { rmsNormBackward } from '../src/kernels/rms_norm/rms_norm.ts'
import { evaluateWord } from '../src/tensor/bind.ts'
import type { Product } from '../src/tensor/cuda.ts'
import type { Activation, DType } from '../src/tensor/dtype.ts'
import { defineKernel, f32, type Kernel, output } from '../src/tensor/kernel.ts'
import { Tensor } from '../src/tensor/tensor.ts'
import { allowed, difference, runCase } from './cases.ts'
import { FakeCuda } from './fake_cuda.ts'

const root = packageRoot()
const wanted = (...parts: string[]) => new RegExp(parts.map(part => part.replace(/[.()[\]]/g, '\\$&')).join('.*'), 's')

describe('cuda host code, on libraries that compute on the host', () => {
  const fake = new FakeCuda()

  const open = (settings: Record<string, string | number> = {}): CudaBackend =>
    fake.with(settings, () =>
      openCuda(kernels, root, { libraries: fake.libraries, cache: fake.folder, report: () => {} }),
    )
  const refuses = (settings: Record<string, string | number>, ...parts: string[]) =>
    assert.throws(
      () => open(settings),
      (error: Error) => error instanceof UnavailableError && wanted(...parts).test(error.message),
    )

  it('finds the libraries in the wheels of the Python that the shell would start', () => {
    const bin = join(fake.folder, 'bin')
    mkdirSync(bin)
    writeFileSync(join(bin, 'python3'), '')
    assert.ok(libraryDirectories({ PATH: `/nowhere:${bin}` }).includes(fake.libraries))
    assert.equal(libraryDirectories({ LD_LIBRARY_PATH: '/opt/x' })[0], '/opt/x')
  })

  it('describes the device and the versions', () => {
    const backend = open()
    assert.deepEqual(backend.description, {
      device: 'Fake GPU',
      capability: 9,
      driver: '13.0',
      nvrtc: '13.0',
      cublasLt: '13.0',
    })
    assert.equal(backend.activations, 'bf16')
    assert.equal(architectureOf(90), 'sm_90a')
    assert.equal(architectureOf(89), 'sm_89')
    fake.with({}, () => backend.close())
    assert.deepEqual(fake.lines(), ['release'])
  })

  it('names what is missing or too old, with the version found and wanted', () => {
    refuses({ DRIVER: 11080 }, 'libcuda', 'wanted version 12.0 or newer', 'has version 11.8', 'backend=cpu')
    refuses({ NVRTC: 11080 }, 'libnvrtc', 'wanted version 12.0 or newer, up to 13.x', 'has version 11.8', 'pip install')
    refuses({ DRIVER: 12040 }, 'libnvrtc', 'up to 12.x', 'has version 13.0', 'nvidia-cuda-nvrtc-cu12')
    refuses({ CUBLASLT: 110800 }, 'libcublasLt', 'has version 11.8')
    refuses({ CAPABILITY: 75 }, 'Fake GPU has compute capability 7.5, wanted 8.0')
    refuses({ GPUS: 0 }, 'the driver 13.0 finds no GPU')
    refuses({ FAIL: 'cuInit:100' }, 'finds no GPU (CUDA_ERROR_NO_DEVICE')
  })

  it('keeps bytes', () => {
    const backend = open()
    const memory = backend.alloc(64)
    const other = backend.alloc(64)
    assert.equal(backend.usage.bytes, 192)
    backend.zero(memory, 0, 64)
    backend.write(memory, 4, Uint8Array.of(1, 2, 3))
    backend.copy(memory, 4, other, 1, 3)
    const read = new Uint8Array(5)
    backend.zero(other, 0, 1)
    backend.read(other, 0, read)
    assert.deepEqual([...read.subarray(0, 4)], [0, 1, 2, 3])
    backend.close()
    assert.equal(backend.usage.bytes, 0)
  })

  it('says how much memory was wanted and free', () => {
    const backend = open()
    assert.throws(
      () => backend.alloc(2 ** 33),
      (error: Error) =>
        error instanceof UnavailableError &&
        /8,192 MiB wanted, 3 MiB of 81,920 MiB free.*data\.micro_batch/.test(error.message),
    )
    backend.close()
  })

  const tensor = (backend: CudaBackend, dtype: DType, ...shape: number[]) =>
    new Tensor(backend, backend.alloc(4096), 0, dtype, shape)

  it('launches what the contract says, with the arguments of the generated header and a workspace', () => {
    fake.with({}, () => {
      const backend = open()
      const [rows, cols] = [40, 17]
      const matrix = () => tensor(backend, 'bf16', rows, cols)
      const dx = matrix()
      const bindings = {
        dx,
        dw: tensor(backend, 'f32', cols),
        dy: matrix(),
        x: matrix(),
        w: tensor(backend, 'f32', cols),
        inverse: tensor(backend, 'f32', rows),
        accumulate: 1,
      }
      fake.lines()
      backend.run(rmsNormBackward, bindings)
      const slots = `slots ${dx.memory.address.toString(16)} ${bindings.dw.memory.address.toString(16)} workspace 1`
      assert.deepEqual(fake.lines(), [
        'compile rms_norm/rms_norm.cu headers sums_cuda.h cuda.h contracts.h number.h',
        `launch rms_norm_backward_bf16_dx 5,1,1 256,1,1 0 ${slots}`,
        `launch rms_norm_backward_bf16_partial 1,2,1 64,1,1 0 ${slots}`,
        `launch rms_norm_backward_bf16_dw 1,1,1 1024,1,1 0 ${slots}`,
      ])
      backend.run(add, {
        y: tensor(backend, 'f32', 5),
        a: tensor(backend, 'f32', 5),
        b: tensor(backend, 'f32', 5),
      })
      assert.match(fake.lines()[1]!, /^launch add_f32 1,1,1 256,1,1 0 slots .* workspace 0$/)
      backend.close()
    })
  })

  it('waits for kernels one by one where it is watched, and tells the device time', () => {
    fake.with({}, () => {
      const backend = open()
      const seen: unknown[] = []
      backend.profiler = (kernel, seconds, dims) => seen.push(kernel.name, Math.round(seconds * 1e6), dims)
      const y = tensor(backend, 'f32', 5)
      backend.run(add, { y, a: y, b: y })
      assert.deepEqual(seen, ['add', 1500, { n: 5 }])
      backend.close()
    })
  })

  it('names the kernel that faults, that no file exports, and that does not compile', () => {
    const backend = open()
    const y = tensor(backend, 'f32', 5)
    const read = () => fake.with({ FAIL: 'cuStreamSynchronize:700' }, () => y.read())
    assert.throws(
      () => fake.with({ FAIL: 'cuLaunchKernel:1' }, () => backend.run(add, { y, a: y, b: y })),
      /kernel add, launch of 1 x 1 x 1 blocks: cuLaunchKernel failed/,
    )
    const unknown = defineKernel({
      name: 'nowhere',
      args: { y: output('f32', 'n'), eps: f32 },
      reference() {},
      cases: [],
      tolerance: 0,
    })
    assert.throws(() => backend.run(unknown, { y, eps: 0 }), /the cuda backend has no kernel nowhere/)
    backend.run(add, { y, a: y, b: y })
    assert.throws(read, /kernel add faulted: cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS/)
    backend.close()
  })

  it('multiplies in every layout and dtype as the reference does', () => {
    const reference = referenceBackend()
    fake.with({}, () => {
      const backend = open()
      for (const kernel of [gemmNt, gemmNn, gemmTn, gemmTt] as unknown as Kernel[])
        for (const testCase of kernel.cases.filter(
          ({ bench, scalars }) => !bench && (scalars as { round?: number }).round === 0,
        ))
          for (const act of ['f32', 'bf16'] satisfies Activation[]) {
            const want = runCase(reference, kernel, testCase, act).get('c')!
            const got = runCase(backend, kernel, testCase, act).get('c')!
            const limit = allowed({ ...kernel, tolerance: kernel.cuda!.tolerance! }, 'c', want)
            const error = difference(got, want)
            assert.ok(error <= limit, `${kernel.name} ${JSON.stringify(testCase.dims)} ${act} differs by ${error}`)
          }
      assert.ok(fake.lines().includes('heuristic 0 0'))
      backend.close()
    })
  })

  it('checks kernels whose blocks take piece after piece by one block too', () =>
    fake.with({}, () => {
      const backend = open()
      const grids = (name: string) => {
        fake.lines()
        failedCases(kernels.find(kernel => kernel.name === name)!, backend, referenceBackend())
        const launches = fake.lines().filter(line => line.startsWith('launch'))
        return launches.map(line => Number(line.split(' ')[2]!.split(',')[0]))
      }
      for (const all of [grids('amax_lines'), grids('attention').slice(-2)]) {
        assert.ok(all.length > 0 && Math.max(...all) > 1)
        assert.ok(all.every((grid, i) => i % 2 === 0 || grid === 1))
      }
      assert.deepEqual(grids('cross_entropy'), [1, 9, 5, 3, 7])
      backend.close()
    }))

  it('has no product where cuBLASLt names no algorithm', () => {
    const backend = open()
    const c = tensor(backend, 'f32', 2, 2)
    assert.throws(
      () => fake.with({ FAIL: 'heuristic:1' }, () => backend.run(gemmNn, { c, a: c, b: c, accumulate: 0, round: 0 })),
      /cuBLASLt has no algorithm for a product \[2, 2\] x \[2, 2\] of f32 into f32/,
    )
    backend.close()
  })
})

describe('compiled kernels on disk', () => {
  const fake = new FakeCuda()

  it('are made once, and again when damaged', () => {
    const cache = new CompiledCache(fake.folder)
    let made = 0
    const get = () => Buffer.from(cache.get(['a', 'b'], () => Buffer.from(`code ${++made}`))).toString()
    assert.equal(get(), 'code 1')
    assert.equal(get(), 'code 1')
    assert.equal(Buffer.from(cache.get(['ab'], () => Buffer.from('other'))).toString(), 'other')
    for (const file of readdirSync(join(fake.folder, 'cuda'))) {
      const path = join(fake.folder, 'cuda', file)
      writeFileSync(path, readFileSync(path).subarray(0, 10))
    }
    assert.equal(get(), 'code 2')
  })

  it('are whole, however many processes write them at once', async () => {
    const module = fileURLToPath(new URL('../src/backends/cuda/cache.js', import.meta.url))
    const program = `
      const { CompiledCache } = await import(${JSON.stringify(module)})
      const cache = new CompiledCache(${JSON.stringify(fake.folder)})
      for (let i = 0; i < 40; i++) {
        const code = cache.get(['race', String(i)], () => new Uint8Array(300_000).fill(i))
        if (code.length !== 300_000 || code.some(byte => byte !== i)) process.exit(3)
      }`
    const ends = Array.from({ length: 3 }, () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'inherit' })
      return new Promise(resolve => child.once('close', resolve))
    })
    assert.deepEqual(await Promise.all(ends), [0, 0, 0])
    assert.deepEqual(
      readdirSync(join(fake.folder, 'cuda')).filter(file => !file.endsWith('.cubin')),
      [],
    )
  })
})

describe('contracts and .cu files', () => {
  const sources = cudaSources(join(root, 'src', 'kernels'), kernels)
  const exported = sources.flatMap(({ text }) => entriesOf(text))

  it('name every entry point once', () => {
    assert.deepEqual(
      exported.filter((name, i) => exported.indexOf(name) !== i),
      [],
    )
  })

  it('agree: every launch of every case has its entry point and fits a GPU, every product lies in its workspace', () => {
    const used = new Set<string>()
    for (const kernel of kernels)
      for (const { dims, scalars = {}, with: present = [] } of kernel.cases)
        for (const [act, outputs, offers, device] of [
          ['f32', 'f32', false, undefined],
          ['bf16', 'bf16', false, undefined],
          ['f32', 'bf16', false, undefined],
          ['bf16', 'bf16', true, undefined],
          ['f32', 'f32', false, { capability: 90, multiprocessors: 132 }],
          ['bf16', 'bf16', false, { capability: 90, multiprocessors: 132 }],
        ] as const) {
          const dtypes: Record<string, DType | undefined> = {}
          for (const [name, arg] of Object.entries(kernel.args)) {
            if (arg.kind !== 'tensor' || (arg.optional && !present.includes(name))) continue
            if (arg.dtype === 'float') dtypes[name] = arg.access === 'in' ? act : outputs
            else dtypes[name] = arg.dtype === 'act' ? act : arg.dtype
          }
          const call = { act, dtypes, ...(device && { device }), ...(offers ? { offers: () => true } : {}) }
          const bytes = kernel.cuda?.workspace?.(dims, scalars, call) ?? 0
          const launches = kernel.cuda?.launches(dims, scalars, call) ?? [{ grid: 1, block: 256 }]
          assert.ok(launches.length > 0, `${kernel.name} launches nothing`)
          for (const launch of launches) {
            if ('grid' in launch) {
              const name = launch.entry ? `${kernel.name}_${launch.entry}` : kernel.name
              used.add(name)
              assert.ok(exported.includes(name), `no .cu file exports ${name}`)
              const [x = 1, y = 1, z = 1] = [launch.grid].flat() as number[]
              assert.ok(x < 2 ** 31 && y < 65536 && z < 65536, `${name}: a grid of ${x} x ${y} x ${z} blocks`)
              assert.ok([x, y, z].every(Number.isInteger), `${name}: a grid of ${x} x ${y} x ${z} blocks`)
              const threads = ([launch.block].flat() as number[]).reduce((product, n) => product * n, 1)
              assert.ok(threads >= 1 && threads <= 1024, `${name}: ${threads} threads`)
              assert.ok(
                (launch.shared ?? 0) <= (device ? 227 : act === 'bf16' ? 99 : 163) * 1024,
                `${name}: ${launch.shared} bytes of shared memory, sm_80 has 163 KiB, sm_90 227, sm_120 99`,
              )
              continue
            }
            const { m, n, k, batch = 1 } = launch
            for (const [{ at, dtype }, size] of [
              [launch.a, m * k],
              [launch.b, n * k],
              [launch.c, m * n],
            ] as const) {
              if (typeof at === 'number') assert.ok(at + batch * size * (dtype === 'f32' ? 4 : 2) <= bytes, kernel.name)
              else {
                const arg = kernel.args[at]
                assert.ok(arg?.kind === 'tensor', `${kernel.name} has no tensor ${at}`)
                const words = arg.shape.map(word => evaluateWord(word, dims)!)
                const elements = words.reduce((product, word) => product * word, 1)
                assert.equal(dtype === 'e2m1' ? 2 * elements : elements, batch * size)
              }
            }
          }
        }
    assert.deepEqual(
      exported.filter(name => !used.has(name)),
      [],
      'entry points that no case launches',
    )
  })

  it('put swizzled scales where src/formats/swizzle.ts does', () => {
    const program = join(mkdtempSync(join(tmpdir(), 'halfbyte-swizzle-')), 'offsets')
    const source = `#include "swizzle.h"
      #include <cstdio>
      int main() { for (int r = 0; r < 300; r++) for (int c = 0; c < 9; c++) printf("%lld ", (long long)swizzle_offset(r, c, 9)); }`
    const include = join(root, 'src', 'kernels', 'shared')
    const built = spawnSync('c++', ['-x', 'c++', '-', '-I', include, '-o', program], {
      input: source,
      encoding: 'utf8',
    })
    assert.equal(built.status, 0, built.stderr)
    const offsets = spawnSync(program, { encoding: 'utf8' }).stdout.trim().split(' ').map(Number)
    assert.deepEqual(
      offsets,
      Array.from({ length: 2700 }, (_, i) => swizzleOffset(Math.floor(i / 9), i % 9, 9)),
    )
    rmSync(dirname(program), { recursive: true })
  })

  it('hand NVFP4 codes to tensor cores that read them, with swizzled scales and the factor of whole tensors', () => {
    const dims = { m: 144, n: 272, blocks: 10, a_amaxes: 2, b_amaxes: 2 }
    const scalars = { a_bound: 2688, b_bound: 2688, a_per_row: 0, b_per_row: 0, accumulate: 1 }
    const call = { act: 'bf16', dtypes: { c: 'bf16' } } as const
    const { launches } = gemmNvfp4.cuda!
    const native = launches(dims, scalars, { ...call, offers: () => true })
    assert.deepEqual(
      native.map(launch => ('grid' in launch ? launch.entry : launch.a.dtype)),
      ['arrange_a', 'arrange_b', 'factor', 'e2m1'],
    )
    const product = native.at(-1) as Product
    assert.deepEqual([product.k, product.alpha, product.accumulate], [160, 0, true])
    assert.ok('scales' in product.a && product.a.scales.layout === 'rows16')
    const expanded = launches(dims, scalars, { ...call, offers: () => false })
    assert.deepEqual(launches(dims, scalars, call), expanded)
    const perRow = launches({ ...dims, a_amaxes: 144 }, { ...scalars, a_per_row: 1 }, { ...call, offers: () => true })
    assert.equal((perRow.find(launch => !('grid' in launch)) as Product).a.dtype, 'bf16')
  })
})
