import assert from 'node:assert/strict'
import { it } from 'node:test'
import { Profile } from '../src/cli/profile.ts'
import type { Backend } from '../src/tensor/backend.ts'

it('the profile of a training counts its steps but the first, and no validation between them', () => {
  const backend: Pick<Backend, 'profiler'> = {}
  const profile = new Profile(backend as Backend)
  const call = (name: string, seconds: number) =>
    backend.profiler!({ name, args: {}, flops: () => 6e9 } as never, seconds, {}, {})
  for (const seconds of [5, 4, 1, 1]) {
    call('gemm', seconds / 2)
    call('gemm', seconds / 4)
    profile.step(seconds)
    call('gemm', 20)
    profile.leaveOut()
  }
  const cells = String(profile)
    .split('\n')
    .map(line => line.trim().split(/ {2,}/))
  assert.deepEqual(cells.slice(1), [
    ['gemm', '75.0 %', '750.00 ms', '2', '16.0 GFLOP/s'],
    ['outside kernels', '25.0 %', '250.00 ms'],
    ['step', '100.0 %', '1000.00 ms'],
  ])
})
