import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { processorQuota, usableProcessors } from './processors.ts'

const quotaOf = (files: Readonly<Record<string, string | undefined>>): number => processorQuota(path => files[path])

describe('processors that a process may use', () => {
  it('are limited by the control groups of version 2, at any height', () => {
    const files = {
      '/proc/self/cgroup': '0::/kubepods/pod1/main\n',
      '/sys/fs/cgroup/kubepods/pod1/main/cpu.max': 'max 100000\n',
      '/sys/fs/cgroup/kubepods/pod1/cpu.max': '250000 100000\n',
      '/sys/fs/cgroup/kubepods/cpu.max': '6400000 100000\n',
    }
    assert.equal(quotaOf(files), 2.5)
    assert.equal(quotaOf({ ...files, '/sys/fs/cgroup/kubepods/pod1/main/cpu.max': '50000 100000\n' }), 0.5)
  })

  it('are limited inside a container, which sees its group as the root', () => {
    assert.equal(quotaOf({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': '150000 100000\n' }), 1.5)
    const one = {
      '/proc/self/cgroup': '5:memory:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n0::/\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '300000\n',
      '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
    }
    assert.equal(quotaOf(one), 3)
  })

  it('are not limited where there is no quota, no group or another system', () => {
    const unlimited = {
      '/proc/self/cgroup': '1:cpu:/\n0::/user.slice\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
      '/sys/fs/cgroup/user.slice/cpu.max': 'max 100000\n',
    }
    for (const files of [unlimited, {}, { '/proc/self/cgroup': '' }])
      assert.equal(quotaOf(files), Number.POSITIVE_INFINITY)
  })

  it('are whole ones, and one at least', () => {
    assert.deepEqual(
      [2.5, 0.5, 16, Number.POSITIVE_INFINITY].map(quota => usableProcessors(8, quota)),
      [2, 1, 8, 8],
    )
  })
})
