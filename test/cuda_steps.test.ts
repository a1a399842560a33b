import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import type { CudaBackend } from '../src/backends/cuda/backend.ts'
import { openCuda } from '../src/backends/cuda/open.ts'
import { UnavailableError } from '../src/backends/errors.ts'
import { packageRoot } from '../src/backends/open.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { add } from '../src/kernels/add/add.ts'
import { gemmNt } from '../src/kernels/gemm/gemm.ts'
import { kernels } from '../src/kernels/index.ts'
import { listCheckpoints } from '../src/run/checkpoint.ts'
import { openRun } from '../src/run/open.ts'
import { readRoutes } from '../src/run/routes.ts'
import type { DType } from '../src/tensor/dtype.ts'
import { Tensor } from '../src/tensor/tensor.ts'
import { train } from '../src/train/loop.ts'
import { Trainer } from '../src/train/trainer.ts'
import { runCli } from './cli.ts'
import { FakeCuda } from './fake_cuda.ts'
import { configFile, smallConfig, testFolder } from './training.ts'

/** Steps on a GPU as graphs, on libraries that compute products on the host and note down all else. */

const fake = new FakeCuda()
const folder = testFolder()

const open = (graphs = true): CudaBackend =>
  openCuda(kernels, packageRoot(), { libraries: fake.libraries, cache: fake.folder, report: () => {}, graphs })

/** Runs `body` with a backend that is closed after it. */
const using = (body: (backend: CudaBackend) => void, graphs = true): void =>
  fake.with({}, () => {
    const backend = open(graphs)
    fake.lines()
    body(backend)
    backend.close()
  })

const tensor = (backend: CudaBackend, dtype: DType, ...shape: number[]) =>
  new Tensor(backend, backend.alloc(4096), 0, dtype, shape)

/** c = a bᵀ, half of it copied. */
function product(backend: CudaBackend) {
  const [a, b, c, sum] = [2, 3, 4, 5].map(() => tensor(backend, 'f32', 4, 4)) as [Tensor, Tensor, Tensor, Tensor]
  // An addition is noted down and not computed: c stays the product.
  const body = () => {
    sum.zero()
    backend.run(gemmNt, { c, a, b, accumulate: 0, round: 0 })
    backend.copy(c.memory, 0, sum.memory, 0, 32)
    backend.run(add, { y: c.view([16]), a: c.view([16]), b: c.view([16]) })
  }
  return { a: a.write(new Float32Array(16).fill(1)), b: b.write(new Float32Array(16).fill(1)), c, sum, body }
}

const launches = (lines: readonly string[]) => lines.filter(line => line.startsWith('launch'))
const graphLines = (lines: readonly string[]) =>
  lines.filter(line => /^(capture|captured|graph|graph forgotten)$/.test(line))

describe('work that is recorded', () => {
  it('runs kernel by kernel once, is then recorded, and then replayed', () =>
    using(backend => {
      const { a, sum, body } = product(backend)
      const seen: string[][] = []
      const sums = [1, 2, 3, 4].map(value => {
        a.write(new Float32Array(16).fill(value))
        backend.capture('key', body)
        seen.push(fake.lines())
        return [...sum.floats().subarray(7, 9)]
      })
      assert.deepEqual(
        sums,
        [1, 2, 3, 4].map(value => [4 * value, 0]),
        'a replay reads what was written before it',
      )
      assert.deepEqual(seen.map(graphLines), [[], ['capture', 'captured', 'graph'], ['graph'], ['graph']])
      for (const lines of seen.slice(1)) assert.deepEqual(launches(lines), launches(seen[0]!))
    }))

  it('is never recorded where kernels are watched or graphs are not wanted', () => {
    for (const graphs of [true, false])
      using(backend => {
        const { body } = product(backend)
        if (graphs) backend.profiler = () => {}
        for (let i = 0; i < 3; i++) backend.capture('key', body)
        assert.deepEqual(graphLines(fake.lines()), [])
      }, graphs)
  })

  it('begins anew when memory that it uses is freed, and only then', () =>
    using(backend => {
      const { body } = product(backend)
      const other = backend.alloc(64)
      const own = backend.alloc(64)
      const both = () => {
        body()
        backend.zero(own, 0, 64)
      }
      for (let i = 0; i < 2; i++) backend.capture('key', both)
      fake.lines()
      backend.free(other)
      backend.capture('key', both)
      assert.deepEqual(graphLines(fake.lines()), ['graph'])
      backend.free(own)
      assert.deepEqual(fake.lines(), ['graph forgotten'])
      for (let i = 0; i < 2; i++) backend.capture('key', body)
      assert.deepEqual(graphLines(fake.lines()), ['capture', 'captured', 'graph'])
    }))

  it('may neither read nor write host memory, and an error within leaves the stream usable', () =>
    using(backend => {
      const { a, c, body } = product(backend)
      for (const [what, touch] of [
        ['write', () => a.write(new Float32Array(16))],
        ['read', () => a.read()],
        ['read', () => a.readLater()],
      ] as const) {
        let wrong = false
        const sometimes = () => {
          body()
          if (wrong) touch()
        }
        backend.capture(`${touch}`, sometimes)
        wrong = true
        assert.throws(
          () => backend.capture(`${touch}`, sometimes),
          new RegExp(`a recorded step cannot ${what} host memory`),
        )
        assert.equal(c.floats()[0], 4)
      }
    }))

  it('counts the routes of its products each time, and tells another algorithm', () => {
    using(backend => {
      const { body } = product(backend)
      const route = 'cuBLASLt f32 to f32, algorithm 60, tile 61, stages 66, split-k 62, reduction 63'
      for (let i = 0; i < 4; i++) {
        backend.capture('key', body)
        assert.deepEqual(backend.takeRoutes(), { 'gemm_nt m=4 n=4 k=4': { [route]: 1 } })
      }
      for (let i = 0; i < 3; i++) backend.capture('key', body)
      assert.deepEqual(backend.takeRoutes(), { 'gemm_nt m=4 n=4 k=4': { [route]: 3 } })
    })
    fake.with({ ALGORITHM: 70 }, () =>
      using(backend => {
        product(backend).body()
        assert.match(Object.keys(backend.takeRoutes()['gemm_nt m=4 n=4 k=4']!)[0]!, /algorithm 70, /)
      }),
    )
  })
})

describe('copies that do not wait', () => {
  it('keep their order and their bytes, however many there are', () =>
    using(backend => {
      const target = tensor(backend, 'f32', 1000)
      const pending = Array.from({ length: 1500 }, (_, i) => {
        target.write(new Float32Array(1000).fill(i))
        return target.readLater()
      })
      for (const [i, read] of pending.entries()) assert.deepEqual([...read().subarray(998)], [i, i])
      const large = new Tensor(backend, backend.alloc(2 ** 23), 0, 'u8', [2 ** 23])
      large.write(new Uint8Array(2 ** 23).fill(7))
      assert.ok(large.read().every(value => value === 7))
    }))
})

/** Trains a few steps in a run directory. Kernels do nothing on these libraries, so what they would find is put where they would. */
async function trainRun(
  directory: string,
  settings: Readonly<Record<string, string>>,
  stopAfter: number,
): Promise<void> {
  const config = smallConfig(folder, 'backend=cuda', 'steps=8', 'checkpoint.every=2', 'validation.every=2')
  const corpus = openCorpus(config.data.files, config.data.tokenizer)
  const backend = fake.with(settings, () => open())
  const trainer = new Trainer(config, backend, corpus)
  const begin = trainer.begin.bind(trainer)
  const healthy = { loss: 2, norm: 1, finite: true, updated: true, zero: [], nonFinite: [], nonFiniteOperands: [] }
  trainer.begin = (step, sampled) => {
    const result = fake.with(settings, () => begin(step, sampled))
    return () => ({ ...result(), ...healthy, numerics: [] })
  }
  const validate = trainer.validate.bind(trainer)
  trainer.validate = recipe => ({ ...validate(recipe), loss: 2 })
  trainer.optimizer.nonFiniteWeights = () => []
  const device = { backend: 'cuda', ...backend.description }
  const run = openRun(directory, config, { halfbyte: '0.1.0', device, corpus: corpus.fingerprint })
  const stop = new AbortController()
  try {
    await train(
      run,
      trainer,
      {
        until: stopAfter,
        step: ({ step }) => {
          if (step === stopAfter) stop.abort()
        },
      },
      stop.signal,
    )
  } finally {
    run.close()
    fake.with({}, () => backend.close())
  }
}

describe('routes of products in a run', () => {
  it('are on record, are the same when it goes on, and another one stops it before a checkpoint', async () => {
    const run = join(folder, 'routes')
    await trainRun(run, {}, 3)
    const [entry, ...others] = readRoutes(run)
    assert.deepEqual(others, [])
    assert.deepEqual([entry!.from, entry!.phase, entry!.device.device], [1, 0, 'Fake GPU'])
    const served = Object.entries(entry!.products)
    assert.ok(served.some(([product]) => product.startsWith('gemm_nvfp4 ')))
    for (const [product, routes] of served)
      if (product.startsWith('gemm_nvfp4 '))
        for (const route of Object.keys(routes)) assert.match(route, /expand_a; .*expand_b; .*cuBLASLt bf16 to/)
    const times = served.flatMap(([product, routes]) => (product.startsWith('gemm') ? Object.values(routes) : []))
    // 8 linear layers and the head, three products each, two micro-batches
    assert.equal(
      times.reduce((sum, n) => sum + n, 0),
      9 * 3 * 2,
    )
    await trainRun(run, {}, 4)
    assert.deepEqual(readRoutes(run), [entry])
    await assert.rejects(
      trainRun(run, { ALGORITHM: '90' }, 8),
      /training stopped at step 5: gemm_\S+ m=.* was served by .*algorithm 60, .* now by .*algorithm 90, .*delete .*routes\.json/,
    )
    assert.deepEqual(listCheckpoints(run), [3, 4])
  })

  it('may be others on another device', async () => {
    const run = join(folder, 'devices')
    await trainRun(run, {}, 2)
    await trainRun(run, { ALGORITHM: '90', CAPABILITY: '100' }, 3)
    assert.deepEqual(
      readRoutes(run).map(({ from, device }) => [from, device.capability]),
      [
        [1, 9],
        [3, 10],
      ],
    )
  })
})

describe('a GPU that fails', () => {
  const failing = (settings: Record<string, string>, body: () => unknown, wanted: RegExp) =>
    assert.throws(() => fake.with(settings, body), wanted)

  it('is told from one that has no room, or lets nobody else in', () => {
    const unavailable = (settings: Record<string, string>, wanted: RegExp) =>
      assert.throws(
        () => fake.with(settings, () => open()),
        (error: Error) => error instanceof UnavailableError && wanted.test(error.message),
      )
    unavailable(
      { FAIL: 'cuDevicePrimaryCtxRetain:2' },
      /^Fake GPU has no memory free for another process .*end what else runs/,
    )
    unavailable(
      { FAIL: 'cuDevicePrimaryCtxRetain:46' },
      /^the GPU Fake GPU is in use by a process that allows no other/,
    )
  })

  it('ends the command with one sentence; the config names the folder of the libraries', () => {
    const config = configFile(folder, 'backend=cuda', `libraries=${fake.libraries}`)
    const { status, stdout, stderr } = runCli(['train', config, '--run', join(folder, 'absent')], {
      env: { FAKE_CUDA_GPUS: '0' },
    })
    assert.deepEqual(
      [status, stdout, stderr],
      [1, '', 'halfbyte: the driver 13.0 finds no GPU: use backend=cpu, or see what nvidia-smi says\n'],
    )
  })

  it('names the kernels of a graph, and what to do to name one; nothing more is asked of the driver', () =>
    fake.with({}, () => {
      const backend = open()
      const { body, sum } = product(backend)
      for (let i = 0; i < 2; i++) backend.capture('key', body)
      const read = sum.readLater()
      const fault = /one of the kernels gemm_nt, add faulted: .*ILLEGAL_ADDRESS.*; with --profile .* names it/
      failing({ FAIL: 'cuEventSynchronize:700' }, read, fault)
      failing({ FAIL: 'cuGraphLaunch:700' }, () => backend.capture('key', body), fault)
      failing({ FAIL: 'cuLaunchKernel:700' }, body, /one of the kernels gemm_nt, add faulted: cuLaunchKernel/)
      fake.lines()
      fake.with({ FAIL: 'cuStreamSynchronize:700' }, () => backend.close())
      assert.deepEqual(fake.lines(), [])
    }))

  it('that is lost in a run leaves the last checkpoint, and the error says which', async () => {
    const run = join(folder, 'lost')
    await trainRun(run, {}, 3)
    await assert.rejects(
      trainRun(run, { FAIL: 'cuGraphLaunch:999' }, 8),
      (error: Error) =>
        error instanceof UnavailableError &&
        /^the GPU Fake GPU was lost; .*cuGraphLaunch failed with CUDA_ERROR_UNKNOWN.*; the checkpoint of step \d is untouched$/.test(
          error.message,
        ),
    )
    assert.ok(listCheckpoints(run).length > 0)
    await trainRun(run, {}, 8)
    assert.ok(listCheckpoints(run).includes(8))
  })

  it('without memory for what a step needs says what to change', async () => {
    await assert.rejects(
      trainRun(join(folder, 'memory'), { FAIL: 'cuMemAlloc:2' }, 8),
      (error: Error) =>
        error instanceof UnavailableError &&
        /MiB wanted, .*free.*data\.micro_batch.*model\.recompute=block/.test(error.message),
    )
  })
})

describe('a training step on a GPU', () => {
  it('launches the same kernels with and without graphs, and waits for nothing before it is asked', () => {
    const config = smallConfig(folder, 'backend=cuda', 'steps=6')
    const corpus = openCorpus(config.data.files, config.data.tokenizer)
    const seen = [true, false].map(graphs => {
      let steps: string[][] = []
      using(backend => {
        const trainer = new Trainer(config, backend, corpus)
        fake.lines()
        steps = [0, 1, 2, 3].map(step => {
          const wait = fake.with({ FAIL: 'cuStreamSynchronize:700' }, () => trainer.begin(step))
          const lines = fake.lines()
          assert.ok(Object.keys(wait().routes!).length > 5)
          return lines
        })
      }, graphs)
      return steps
    })
    const [graphs, eager] = seen as [string[][], string[][]]
    assert.deepEqual(
      graphs.map(lines => graphLines(lines).length),
      [0, 3, 1, 1],
    )
    assert.ok(launches(eager[0]!).length > 100)
    const names = (lines: string[]) => launches(lines).map(line => line.split(' slots')[0])
    for (const step of [1, 2, 3]) assert.deepEqual(names(graphs[step]!), names(eager[step]!))
  })
})
