import assert from 'node:assert/strict'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import { cpuBackend } from '../src/backends/cpu.ts'
import { UnavailableError } from '../src/backends/errors.ts'
import { chooseLevel, cpuFeatures, type Level, levels } from '../src/backends/levels.ts'
import { buildNative } from '../src/backends/native.ts'
import { openBackend, packageRoot } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'
import { ssd } from '../src/kernels/ssd/ssd.ts'
import { Arena } from '../src/tensor/arena.ts'
import type { Backend } from '../src/tensor/backend.ts'
import type { TypedArray } from '../src/tensor/dtype.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { allowed, caseArrays, difference, runCase, variantsOf } from './cases.ts'

/** Whether zeros have the sign that is wanted. */
function sameZeros(got: TypedArray, want: TypedArray): boolean {
  const magnitude = want instanceof Uint16Array ? 0x7fff : -1
  return want.every((x, i) => (magnitude < 0 ? x : x & magnitude) !== 0 || Object.is(got[i], x))
}

const sameBytes = (a: TypedArray, b: TypedArray): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

/** Every kernel on every instruction level this machine has: on 2 threads against its reference, on 1 and 3 the same bytes. */
describe('conformance', () => {
  const features = cpuFeatures()
  const usable = levels.filter(level => level.needs.every(feature => features.has(feature)))
  const libraries = new Map<Level, string>()
  let reference: Backend

  before(async () => {
    reference = await openBackend('reference', kernels)
    const root = packageRoot()
    for (const level of usable)
      libraries.set(level, await buildNative(kernels, join(root, 'src', 'kernels'), root, level, () => {}))
  })

  for (const kernel of kernels)
    it(kernel.name, () => {
      const cases = kernel.cases.filter(testCase => !testCase.bench)
      assert.ok(cases.length > 0, 'a kernel without cases is not tested')
      const runs = cases.flatMap(testCase =>
        variantsOf(kernel).map(act => {
          const arrays = caseArrays(kernel, testCase, act)
          return { testCase, act, arrays, want: runCase(reference, kernel, testCase, act, arrays) }
        }),
      )
      for (const [level, library] of libraries) {
        const onTwo: Map<string, TypedArray>[] = []
        // The threads are those of the library, which the newest backend decides.
        for (const threads of [2, 1, 3]) {
          const backend = cpuBackend(library, level, threads)
          for (const [i, { testCase, act, arrays, want }] of runs.entries()) {
            const got = runCase(backend, kernel, testCase, act, arrays)
            const label = `${kernel.name} ${testCase.name ?? JSON.stringify(testCase.dims)} ${act} ${level.name}`
            for (const [name, array] of got)
              if (threads === 2) {
                const error = difference(array, want.get(name)!)
                const limit = allowed(kernel, name, want.get(name)!)
                assert.ok(error <= limit, `${label}: ${name} differs by ${error}, allowed ${limit}`)
                assert.ok(
                  limit > 0 || sameZeros(array, want.get(name)!),
                  `${label}: ${name} has a zero of the other sign`,
                )
              } else
                assert.ok(sameBytes(array, onTwo[i]!.get(name)!), `${label}: ${name} is another on ${threads} threads`)
            if (threads === 2) onTwo.push(got)
          }
          backend.close()
        }
      }
    })

  it('says what memory a kernel could not have, from every thread, and goes on', () => {
    const [level, library] = [...libraries][0]!
    const backend = cpuBackend(library, level, 2)
    // Matrices of 2^14 x 2^31 floats are beyond the addresses of any machine, so that none of them is touched.
    const [sequence, state] = [2 ** 14, 2 ** 31 - 1]
    const arena = new Arena(backend)
    const floats = (...shape: number[]) => arena.alloc('f32', shape).zero()
    for (const batch of [1, 4]) {
      const rows = batch * sequence
      const sizes = { offset: 0, groups: 1, state, chunk: sequence, sequence }
      const parameters = { dtBias: floats(1), aLog: floats(1), skip: floats(1) }
      const given = { xbc: floats(rows, 3), projection: floats(rows, 1), ...parameters, ...sizes }
      const starts = arena.alloc('i32', [rows]).zero()
      assert.throws(
        () => backend.run(ssd, { y: floats(rows, 1), ...given, starts }),
        (error: Error) =>
          error instanceof UnavailableError &&
          /^out of memory: ssd wanted \d{15} bytes, \d+ in use$/.test(error.message),
      )
      const small = ssd.cases.find(({ bench }) => !bench)! as Case
      const results = [backend, reference].map(on => runCase(on, ssd as unknown as Kernel, small, 'f32'))
      assert.ok(difference(results[0]!.get('y')!, results[1]!.get('y')!) <= 1e-5)
    }
  })

  it('names the level that a processor lacks', () => {
    assert.throws(() => chooseLevel('avx512', new Set(['avx2'])), /needs avx512f/)
    assert.throws(() => chooseLevel('avx2', new Set()), /"avx2" is for x86-64 processors under Linux.*; use portable$/)
    assert.throws(() => chooseLevel('sse9'), /unknown; use one of avx512, avx2, portable/)
  })
})
