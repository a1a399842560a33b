import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { posix } from 'node:path'

/** A file's text, undefined where it is not there. */
export type ReadText = (path: string) => string | undefined

const readText: ReadText = path => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Where control groups that limit time on processors are mounted, and the files that say how much: of version 2 and of version 1. */
const mounts = [
  ['/sys/fs/cgroup', ['cpu.max']],
  ['/sys/fs/cgroup/cpu', ['cpu.cfs_quota_us', 'cpu.cfs_period_us']],
  ['/sys/fs/cgroup/cpu,cpuacct', ['cpu.cfs_quota_us', 'cpu.cfs_period_us']],
] as const

/** The group and those above it. A container may see its own group as the root, under the path that it has outside. */
const withParents = (group: string): string[] =>
  group === '/' ? [group] : [group, ...withParents(posix.dirname(group))]

/**
 * Processors' worth of time that the control groups of this process allow, as `docker run --cpus` and limits of Kubernetes set it; Infinity where
 * there is no limit. (Linux, Documentation/admin-guide/cgroup-v2.rst, "cpu.max", and scheduler/sched-bwc.rst.)
 */
export function processorQuota(read: ReadText = readText): number {
  const groups = [...(read('/proc/self/cgroup') ?? '').matchAll(/^\d+:(.*?):(\/.*)$/gm)]
    .filter(([, controllers]) => controllers === '' || controllers!.split(',').includes('cpu'))
    .flatMap(([, , group]) => withParents(group!))
  let quota = Number.POSITIVE_INFINITY
  for (const group of new Set(groups))
    for (const [mount, files] of mounts) {
      const texts = files.map(file => read(posix.join(mount, group, file)))
      const [time, period] = texts.join(' ').trim().split(/\s+/).map(Number) as [number, number]
      // "max" and -1 are no limit.
      if (time > 0 && period > 0) quota = Math.min(quota, time / period)
    }
  return quota
}

/** Threads that can run at once in this process: the processors that it may use, or fewer where control groups allow less of their time. */
export const usableProcessors = (available = availableParallelism(), quota = processorQuota()): number =>
  Math.max(1, Math.min(available, Math.floor(quota)))
