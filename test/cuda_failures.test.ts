import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import type { CudaBackend } from '../src/backends/cuda/backend.ts'
import { CompiledCache } from '../src/backends/cuda/cache.ts'
import { openCuda } from '../src/backends/cuda/open.ts'
import { UnavailableError } from '../src/backends/errors.ts'
import { findCompiler } from '../src/backends/native.ts'
import { packageRoot } from '../src/backends/open.ts'
import { add } from '../src/kernels/add/add.ts'
import { gemmNt } from '../src/kernels/gemm/gemm.ts'
import { kernels } from '../src/kernels/index.ts'
import type { DType } from '../src/tensor/dtype.ts'
import type { Kernel } from '../src/tensor/kernel.ts'
import { Tensor } from '../src/tensor/tensor.ts'
import { runCase } from './cases.ts'
import { FakeCuda } from './fake_cuda.ts'

/** What the cuda backend says when a library refuses, and that all it took is given back, on libraries without a GPU. */

const fake = new FakeCuda()

const open = (settings: Record<string, string | number> = {}, libraries = fake.libraries): CudaBackend =>
  fake.with(settings, () => openCuda(kernels, packageRoot(), { libraries, cache: fake.folder, report: () => {} }))

const [attentionBackward, gemmNvfp4] = ['attention_backward', 'gemm_nvfp4'].map(
  wanted => kernels.find(({ name }) => name === wanted)!,
) as [Kernel, Kernel]

const tensor = (backend: CudaBackend, dtype: DType, ...shape: number[]) =>
  new Tensor(backend, backend.alloc(4096), 0, dtype, shape)

/** c = a bᵀ. */
function product(backend: CudaBackend) {
  const [a, b, c] = [1, 2, 3].map(() => tensor(backend, 'f32', 4, 4)) as [Tensor, Tensor, Tensor]
  return { c, body: () => backend.run(gemmNt, { c, a, b, accumulate: 0, round: 0 }) }
}

const sum = (backend: CudaBackend, c: Tensor) => {
  const flat = c.view([c.size])
  backend.run(add, { y: flat, a: flat, b: flat })
}

/** That `body` fails with a sentence for the user, or with an error of another kind. */
const fails = (settings: Record<string, string | number>, body: () => unknown, wanted: RegExp, unavailable = true) =>
  assert.throws(
    () => fake.with(settings, body),
    (error: Error) => {
      assert.match(error.message, wanted)
      assert.equal(error instanceof UnavailableError, unavailable, error.message)
      return true
    },
  )

/** Runs `body` with a backend and closes it; nothing must be left. */
const using = (body: (backend: CudaBackend) => void, settings: Record<string, string | number> = {}): void =>
  fake.with(settings, () => {
    const backend = open()
    body(backend)
    fake.lines()
    backend.close()
    assert.equal(fake.lines().at(-1), 'release')
  })

describe('what a cuda backend took', () => {
  it('is given back: memory, events, modules, graphs, descriptions of products', () =>
    using(backend => {
      const { c, body } = product(backend)
      for (let i = 0; i < 3; i++) backend.capture('key', body)
      c.write(new Float32Array(16)).readLater()()
      backend.profiler = () => {}
      body()
      body()
      delete backend.profiler
      // The heuristic names nothing for codes: they are expanded.
      runCase(backend, gemmNvfp4, { ...gemmNvfp4.cases.at(-1)!, dims: dimsInSixteens }, 'bf16')
    }))

  it('is given back after errors: in a step that is recorded, of a watched kernel, where a product is described', () =>
    using(backend => {
      const { c, body } = product(backend)
      let wrong = false
      const sometimes = () => {
        body()
        if (wrong) throw new Error('a mistake')
      }
      backend.capture('key', sometimes)
      wrong = true
      assert.throws(() => backend.capture('key', sometimes), /^Error: a mistake$/)
      backend.profiler = () => {}
      fails({ FAIL: 'cuLaunchKernel:1' }, () => sum(backend, c), /kernel add/, false)
      const other = tensor(backend, 'f32', 2, 4)
      const narrow = () =>
        backend.run(gemmNt, { c: tensor(backend, 'f32', 4, 2), a: c, b: other, accumulate: 0, round: 0 })
      fails({ FAIL: 'cublasLtMatmulAlgoGetHeuristic:7' }, narrow, /AlgoGetHeuristic failed/, false)
    }))

  it('is given back where a library is missing', () => {
    fake.lines()
    fails({ NVRTC: 11080 }, () => open(), /libnvrtc/)
    assert.deepEqual(fake.lines(), ['release'])
    fails({ CUBLASLT: 110800 }, () => open(), /libcublasLt/)
    assert.deepEqual(fake.lines(), ['release'])
  })

  it('leaves no half-written kernel behind', () => {
    const cache = new CompiledCache(join(fake.folder, 'taken'))
    const folder = join(fake.folder, 'taken', 'cuda')
    cache.get(['kernel'], () => Buffer.from('code'))
    const [file, ...others] = readdirSync(folder)
    assert.deepEqual(others, [])
    rmSync(join(folder, file!))
    mkdirSync(join(folder, file!))
    assert.throws(() => cache.get(['kernel'], () => Buffer.from('code')))
    assert.deepEqual(readdirSync(folder), [file])
  })
})

/** Shapes that tensor cores could read as codes. */
const dimsInSixteens = { m: 32, n: 48, blocks: 4, a_amaxes: 2, b_amaxes: 2 }

describe('what a cuda backend says', () => {
  it('of a kernel that wants more shared memory than the GPU has', () => {
    const large = attentionBackward.cases.find(({ dims }) => dims.dim === 72)!
    using(
      backend =>
        fails(
          {},
          () => runCase(backend, attentionBackward, large, 'f32'),
          /^kernel attention_backward needs 146 KiB of shared memory .* Fake GPU has 99 KiB: .*model\.activations=bf16/,
        ),
      { SHARED: 99 * 1024, CAPABILITY: 89 },
    )
    using(backend => runCase(backend, attentionBackward, large, 'bf16'), {
      SHARED: 99 * 1024,
      CAPABILITY: 89,
    })
    using(backend => {
      const setting = () => runCase(backend, attentionBackward, large, 'bf16')
      fails({ FAIL: 'cuFuncSetAttribute:1' }, setting, /^kernel attention_backward, .*cuFuncSetAttribute failed/, false)
    })
  })

  it('of memory that anything but an allocation finds no room for', () =>
    using(backend => {
      const { c, body } = product(backend)
      const room = (what: string) =>
        new RegExp(`^out of GPU memory on Fake GPU: ${what}.* 3 MiB of 81,920 MiB free, .*data\\.micro_batch`)
      const run = () => sum(backend, c)
      fails({ FAIL: 'cuModuleLoadData:2' }, run, room('add/add.cu, compiled for sm_90a: cuModuleLoadData'))
      fails({ FAIL: 'cuLaunchKernel:2' }, run, room('cuLaunchKernel'))
      backend.capture('key', body)
      fails({ FAIL: 'cuGraphInstantiate:2' }, () => backend.capture('key', body), room('cuGraphInstantiate'))
      fails({ FAIL: 'cuLaunchKernel:2,cuMemGetInfo:2' }, run, /cuMemGetInfo_v2 failed/, false)
      fails({ FAIL: 'cuMemHostAlloc:2' }, () => c.readLater(), /page-locked memory .*ulimit -l/)
    }))

  it('of a module that the driver does not take', () =>
    using(backend => {
      const { c } = product(backend)
      const run = () => sum(backend, c)
      fails({ FAIL: 'cuModuleLoadData:209' }, run, /add\/add\.cu, compiled for sm_90a: cuModuleLoadData failed/, false)
    }))

  it('of a product that fails, and of the kernel that faulted before it', () => {
    using(backend => {
      const { body } = product(backend)
      fails({ FAIL: 'cublasLtMatmul:13' }, body, /^gemm_nt m=4 n=4 k=4: cublasLtMatmul failed/, false)
    })
    const backend = open()
    const { c, body } = product(backend)
    sum(backend, c)
    fails(
      { FAIL: 'cublasLtMatmul:13,cuStreamSynchronize:700' },
      body,
      /^kernel add faulted: cuStreamSynchronize/,
      false,
    )
    backend.close()
  })

  it('of hardware that has an error, or is taken away', () => {
    const says = (code: number, wanted: RegExp) => {
      const backend = open()
      const { c } = product(backend)
      fails({ FAIL: `cuStreamSynchronize:${code}` }, () => c.read(), wanted)
      fake.with({}, () => backend.close())
    }
    says(214, /^the GPU Fake GPU has an error in its memory/)
    says(226, /^the GPU Fake GPU met an error of its hardware/)
    says(810, /^the GPU Fake GPU was taken from this process by the MPS server/)
  })

  it('of libraries that do not know the GPU, or are none', () => {
    const old = { CAPABILITY: 120, DRIVER: 12080, NVRTC: 12040, CUBLASLT: 120400 }
    fails(
      old,
      () => open(),
      /^libnvrtc .* found .*libnvrtc\.so\.13 has version 12\.4, which knows no sm_120.*: pip install/,
    )
    open({ ...old, NVRTC: 12080 }).close()
    fails(
      { FAIL: 'cublasLtCreate:8' },
      () => open(),
      /^libcublasLt 13\.0 \(.*\) does not start on Fake GPU: cublasLtCreate failed .*: pip install/,
    )
    const folder = join(fake.folder, 'empty')
    mkdirSync(folder)
    const build = ['-x', 'c', '-', '-shared', '-fPIC', '-o', join(folder, 'libnvrtc.so.13')]
    assert.equal(spawnSync(findCompiler()!.command, build, { input: 'int nothing;' }).status, 0)
    for (const name of ['libcuda.so.1', 'libcublasLt.so.13'])
      symlinkSync(join(fake.libraries, name), join(folder, name))
    fails({}, () => open({}, folder), /libnvrtc\.so\.13 is not what its name says .*nvrtcVersion/)
  })
})

describe('host memory', () => {
  it('is not read after a write returns, where it is too large for page-locked memory', () =>
    fake.with({}, () => {
      const backend = open()
      const large = new Tensor(backend, backend.alloc(2 ** 23), 0, 'u8', [2 ** 23])
      const write = () => large.write(new Uint8Array(2 ** 23))
      fails({ FAIL: 'cuStreamSynchronize:700' }, write, /cuStreamSynchronize/, false)
    }))
})

describe('a step that is recorded', () => {
  it('cannot free what it uses', () =>
    using(backend => {
      const { body } = product(backend)
      const own = backend.alloc(64)
      let last = false
      const both = () => {
        body()
        backend.zero(own, 0, 64)
        if (last) backend.free(own)
      }
      backend.capture('key', both)
      last = true
      fails({}, () => backend.capture('key', both), /a recorded step cannot free memory that it uses/, false)
      backend.capture('key', body)
    }))
})
