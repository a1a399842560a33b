import { Worker } from 'node:worker_threads'
import type { EncodedUnit } from './encode_unit.ts'
import { CorpusError } from './errors.ts'
import type { WorkerTask } from './tokenize_worker.ts'

interface Waiting {
  readonly task: WorkerTask
  readonly resolve: (encoded: EncodedUnit) => void
  readonly reject: (error: Error) => void
}

interface Answer {
  readonly encoded?: EncodedUnit
  readonly failure?: { readonly message: string; readonly stack: string; readonly isOfCorpus: boolean }
}

function errorOf({ message, stack, isOfCorpus }: NonNullable<Answer['failure']>): Error {
  if (isOfCorpus) return new CorpusError(message)
  return Object.assign(new Error(message), { stack })
}

/** Threads that encode units, each one at a time. */
export class Workers {
  readonly #workers: Worker[] = []
  readonly #idle: Worker[] = []
  readonly #queue: Waiting[] = []
  readonly #busy = new Map<Worker, Waiting>()

  /** @param tokenizer As `data.tokenizer`. */
  constructor(count: number, tokenizer: string) {
    const entry = new URL(import.meta.url.replace(/workers(\.[jt]s)$/, 'tokenize_worker$1'))
    for (let i = 0; i < count; i++) {
      const worker = new Worker(entry, { workerData: tokenizer, execArgv: [] })
      worker.on('message', (answer: Answer) => this.#answered(worker, answer))
      worker.on('error', error => this.#failed(worker, error as Error))
      this.#workers.push(worker)
      this.#idle.push(worker)
    }
  }

  encode(task: WorkerTask): Promise<EncodedUnit> {
    const promise = new Promise<EncodedUnit>((resolve, reject) => {
      this.#queue.push({ task, resolve, reject })
    })
    // A failure is heard where the results are awaited in their order; until then it must not count as unheard.
    promise.catch(() => {})
    this.#next()
    return promise
  }

  #next(): void {
    while (this.#queue.length > 0 && this.#idle.length > 0) {
      const worker = this.#idle.pop()!
      const waiting = this.#queue.shift()!
      this.#busy.set(worker, waiting)
      const { unit } = waiting.task
      worker.postMessage(waiting.task, 'bytes' in unit ? [unit.bytes.buffer as ArrayBuffer] : [])
    }
  }

  #answered(worker: Worker, { encoded, failure }: Answer): void {
    const waiting = this.#busy.get(worker)!
    this.#busy.delete(worker)
    this.#idle.push(worker)
    if (encoded) waiting.resolve(encoded)
    else waiting.reject(errorOf(failure!))
    this.#next()
  }

  /** A thread that has died takes its unit with it, and those that no other is left for. */
  #failed(worker: Worker, error: Error): void {
    this.#busy.get(worker)?.reject(error)
    this.#busy.delete(worker)
    if (this.#busy.size === 0 && this.#idle.length === 0) for (const { reject } of this.#queue.splice(0)) reject(error)
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map(worker => worker.terminate()))
  }
}
