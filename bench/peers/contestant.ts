import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { packageRoot } from '../../src/backends/open.ts'
import type { PeerSpec } from './work.ts'

export interface Answer {
  readonly seconds: number
  /** Of all threads. */
  readonly cpu_seconds: number
  /** Of the last step. */
  readonly loss: number
  /** High-water mark of the process's resident memory; on a GPU, memory held there. */
  readonly peak_bytes: number
}

/** What a contestant is told: the work, and a recipe of halfbyte or a mode of peer.py. */
export type Choice = { readonly recipe: string } | { readonly mode: string }

/** A process that runs steps when told to, and waits meanwhile. */
export class Contestant {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  #errors = ''

  /** @param python needed for a mode of peer.py. */
  constructor(spec: PeerSpec, choice: Choice, python = 'python3') {
    const [command, script] =
      'recipe' in choice
        ? [process.execPath, fileURLToPath(new URL('halfbyte.js', import.meta.url))]
        : [python, join(packageRoot(), 'bench', 'peers', 'peer.py')]
    this.#child = spawn(command, [script])
    this.#child.stderr.on('data', chunk => {
      this.#errors = (this.#errors + chunk).slice(-2000)
    })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
    this.#child.stdin.write(`${JSON.stringify({ ...spec, ...choice })}\n`)
  }

  async #answer<T>(): Promise<T> {
    const line = await this.#lines.next()
    if (line.done) throw new Error(`a contestant ended early: ${this.#errors}`)
    return JSON.parse(line.value)
  }

  /** After its first step: the number of parameters, and the loss of that step. */
  ready(): Promise<{ ready: number; loss: number }> {
    return this.#answer()
  }

  run(steps: number): Promise<Answer> {
    this.#child.stdin.write(`${steps}\n`)
    return this.#answer()
  }

  close(): void {
    this.#child.stdin.end()
  }
}

export const tokensOf = (spec: PeerSpec): number => (spec.kind === 'linear' ? spec.tokens : spec.batch * spec.sequence)
