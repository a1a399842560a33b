import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { UnavailableError } from '../src/backends/errors.ts'
import { chooseLevel, cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'
import { ssd } from '../src/kernels/ssd/ssd.ts'
import { Arena } from '../src/tensor/arena.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { TypedArray } from '../src/tensor/dtype.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { allowed, difference, runCase, variantsOf } from './cases.ts'

/** Whether zeros have the sign that is wanted. */
function sameZeros(got: TypedArray, want: TypedArray): boolean {
  const magnitude = want instanceof Uint16Array ? 0x7fff : -1
  return want.every((x, i) => (magnitude < 0 ? x : x & magnitude) !== 0 || Object.is(got[i], x))
}

/** Every kernel on every instruction level this machine has, on 1, 2 and 3 threads, against its reference. */
describe('conformance', () => {
  const features = cpuFeatures()
  const usable = levels.filter(level => level.needs.every(feature => features.has(feature)))
  const backends: Backend[] = []
  let reference: Backend

  before(async () => {
    reference = await openBackend('reference', kernels)
    for (const level of usable) backends.push(await openBackend('cpu', kernels, { level: level.name, threads: 2 }))
  })
  after(() => {
    for (const backend of backends) backend.close()
  })

  for (const kernel of kernels)
    it(kernel.name, () => {
      const cases = kernel.cases.filter(testCase => !testCase.bench)
      assert.ok(cases.length > 0, 'a kernel without cases is not tested')
      for (const testCase of cases)
        for (const act of variantsOf(kernel)) {
          const want = runCase(reference, kernel, testCase, act)
          for (const backend of backends) {
            const got = runCase(backend, kernel, testCase, act)
            for (const [name, array] of want) {
              const error = difference(got.get(name)!, array)
              const limit = allowed(kernel, name, array)
              const label = `${kernel.name} ${testCase.name ?? JSON.stringify(testCase.dims)} ${act} ${backend.description.level}: ${name}`
              assert.ok(error <= limit, `${label} differs by ${error}, allowed ${limit}`)
              assert.ok(limit > 0 || sameZeros(got.get(name)!, array), `${label} has a zero of the other sign`)
            }
          }
        }
    })

  it('does not depend on the number of threads', async () => {
    for (const level of usable) {
      const results: Map<string, unknown>[] = []
      for (const threads of [3, 2, 1]) {
        const backend = await openBackend('cpu', kernels, { level: level.name, threads })
        const all = new Map<string, unknown>()
        for (const kernel of kernels)
          for (const testCase of kernel.cases.filter(c => !c.bench))
            for (const act of variantsOf(kernel))
              for (const [name, array] of runCase(backend, kernel, testCase, act))
                all.set(`${kernel.name} ${kernel.cases.indexOf(testCase)} ${act} ${name}`, array)
        results.push(all)
        backend.close()
      }
      assert.deepEqual(results[1], results[0])
      assert.deepEqual(results[2], results[0])
    }
  })

  it('says what memory a kernel could not have, from every thread, and goes on', async () => {
    // Matrices of 2^14 x 2^31 floats are beyond the addresses of any machine, so that none of them is touched.
    const [sequence, state] = [2 ** 14, 2 ** 31 - 1]
    const arena = new Arena(backends[0]!)
    const floats = (...shape: number[]) => arena.alloc('f32', shape).zero()
    for (const batch of [1, 4]) {
      const rows = batch * sequence
      const sizes = { offset: 0, groups: 1, state, chunk: sequence, sequence }
      const parameters = { dtBias: floats(1), aLog: floats(1), skip: floats(1) }
      const given = { xbc: floats(rows, 3), projection: floats(rows, 1), ...parameters, ...sizes }
      const starts = arena.alloc('i32', [rows]).zero()
      assert.throws(
        () => backends[0]!.run(ssd, { y: floats(rows, 1), ...given, starts }),
        (error: Error) =>
          error instanceof UnavailableError &&
          /^out of memory: ssd wanted \d{15} bytes, \d+ in use$/.test(error.message),
      )
      const small = ssd.cases.find(({ bench }) => !bench)! as Case
      const results = [backends[0]!, reference].map(backend => runCase(backend, ssd as unknown as Kernel, small, 'f32'))
      assert.ok(difference(results[0]!.get('y')!, results[1]!.get('y')!) <= 1e-5)
    }
  })

  it('names the level that a processor lacks', () => {
    assert.throws(() => chooseLevel('avx512', new Set(['avx2'])), /needs avx512f/)
    assert.throws(() => chooseLevel('avx2', new Set()), /"avx2" is for x86-64 processors under Linux.*; use portable$/)
    assert.throws(() => chooseLevel('sse9'), /unknown; use one of avx512, avx2, portable/)
  })
})
