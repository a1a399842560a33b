import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Compiled kernels on disk, named by the hash of all that they were made from. A file is written beside and renamed into place, so two
 * processes may write the same one at once, and ends with a hash of its contents, so that a damaged one counts as absent.
 */
export class CompiledCache {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = join(directory, 'cuda')
    mkdirSync(this.#directory, { recursive: true })
  }

  /** What `parts` compiled to, made by `make` if it is not there. */
  get(parts: readonly string[], make: () => Uint8Array): Uint8Array {
    const path = join(
      this.#directory,
      `${digest(...parts)
        .toString('hex')
        .slice(0, 32)}.cubin`,
    )
    const known = this.#read(path)
    if (known) return known
    const contents = make()
    const temporary = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`
    try {
      writeFileSync(temporary, Buffer.concat([contents, digest(contents)]))
      renameSync(temporary, path)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    }
    return contents
  }

  #read(path: string): Uint8Array | undefined {
    let file: Buffer
    try {
      file = readFileSync(path)
    } catch {
      return undefined
    }
    const contents = file.subarray(0, -32)
    return digest(contents).equals(file.subarray(-32)) ? contents : undefined
  }
}

function digest(...parts: readonly (string | Uint8Array)[]): Buffer {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part).update('\0')
  return hash.digest()
}
