import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { UserError } from '../config/errors.ts'
import { names } from './layout.ts'

/** Whoever writes to a run. `started` tells a process from a later one with the same number. */
interface Owner {
  readonly pid: number
  readonly host: string
  readonly started: string
}

/** When a process started, in the system's own unit; empty where the system does not tell. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

function isAlive({ pid, started }: Owner): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return started === '' || startOf(pid) === started
}

function readOwner(path: string): { text: string; owner: Owner | undefined } | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    return { text, owner: JSON.parse(text) as Owner }
  } catch {
    return { text, owner: undefined }
  }
}

/** Takes a lock that nobody holds any more out of the way, unless someone else was quicker. */
function removeStale(path: string, text: string, aside: string): void {
  try {
    renameSync(path, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  if (readFileSync(aside, 'utf8') !== text) linkSync(aside, path)
  rmSync(aside)
}

/**
 * Makes this process the only writer of a run directory. The lock of a process that has died is taken over.
 * @returns Gives the lock back.
 * @throws UserError naming the process that holds it; system errors if the directory cannot be written.
 */
export function lockRun(directory: string): () => void {
  const path = join(directory, names.lock)
  const own: Owner = { pid: process.pid, host: hostname(), started: startOf(process.pid) }
  const text = JSON.stringify(own)
  const aside = `${path}.${process.pid}`
  for (;;) {
    writeFileSync(aside, text)
    try {
      linkSync(aside, path)
      rmSync(aside)
      return () => {
        if (readOwner(path)?.text === text) rmSync(path, { force: true })
      }
    } catch (error) {
      rmSync(aside, { force: true })
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const found = readOwner(path)
    if (!found) continue
    if (found.owner && found.owner.host !== own.host)
      throw new UserError(
        `${directory} is being written by process ${found.owner.pid} on ${found.owner.host}; if that has ended, delete ${path}`,
      )
    if (found.owner && isAlive(found.owner))
      throw new UserError(`${directory} is being written by process ${found.owner.pid}; wait until it ends, or stop it`)
    removeStale(path, found.text, `${aside}.stale`)
  }
}
