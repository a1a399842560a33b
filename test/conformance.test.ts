import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { chooseLevel, cpuFeatures, levels } from '../src/backends/levels.ts'
import { openBackend } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'
import type { Backend } from '../src/tensor/backend.ts'
import { allowed, difference, runCase, variantsOf } from './cases.ts'

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
            }
          }
        }
    })

  it('does not depend on the number of threads', async () => {
    for (const level of usable) {
      const results: Map<string, unknown>[] = []
      for (const threads of [1, 2, 3]) {
        const backend = await openBackend('cpu', kernels, { level: level.name, threads })
        const all = new Map<string, unknown>()
        for (const kernel of kernels)
          for (const testCase of kernel.cases.filter(c => !c.bench))
            for (const act of variantsOf(kernel))
              for (const [name, array] of runCase(backend, kernel, testCase, act))
                all.set(`${kernel.name} ${kernel.cases.indexOf(testCase)} ${act} ${name}`, array)
        results.push(all)
      }
      assert.deepEqual(results[1], results[0])
      assert.deepEqual(results[2], results[0])
    }
  })

  it('names the level that a processor lacks', () => {
    assert.throws(() => chooseLevel('avx512', new Set(['avx2'])), /needs avx512f/)
    assert.throws(() => chooseLevel('sse9'), /unknown; use one of avx512, avx2, portable/)
  })
})
