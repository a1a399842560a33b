import { after } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { kernels } from '../src/kernels/index.ts'
import type { Backend } from '../src/tensor/backend.ts'

/** The two backends that a test file compares, closed after its tests. */
export async function bothBackends(): Promise<{ readonly reference: Backend; readonly cpu: Backend }> {
  const reference = await openBackend('reference', kernels)
  const cpu = await openBackend('cpu', kernels, { threads: 2 })
  after(() => cpu.close())
  return { reference, cpu }
}
