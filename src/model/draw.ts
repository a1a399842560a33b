import { setImmediate } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import type { ModelConfig } from './config.ts'
import type { DrawTask } from './draw_worker.ts'
import { drawPiece, type Piece, pieceSize, piecesOf } from './initialise.ts'
import { type Parameters, parameterSpecs } from './parameters.ts'

/**
 * Initial weights of large models, drawn by threads. A value depends on the seed, the name of its parameter and its place alone, so that the pieces
 * may be drawn in any order by anyone, to the same bits.
 */

export interface DrawOptions {
  /** Threads that may draw. */
  readonly threads: number
  /** Told how many weights of how many are there. */
  readonly progress?: (done: number, total: number) => void
  /** Leaves the rest undrawn once it is aborted. */
  readonly signal?: AbortSignal | undefined
}

/** Weights below which a thread would take longer to start than to draw them. */
const leastOfThread = 2 ** 22

/** More threads would draw faster than one can copy. */
const mostThreads = 32

/** Pieces that a thread is given at once, so that it need not wait for the next. */
const givenAtOnce = 2

type WritePiece = (piece: Piece, values: Float32Array) => void

/** Has one thread draw pieces until there is none left. */
async function drawInThread(task: DrawTask, next: () => Piece | undefined, write: WritePiece): Promise<void> {
  const entry = new URL(import.meta.url.replace(/draw(\.[jt]s)$/, 'draw_worker$1'))
  const worker = new Worker(entry, { workerData: task, execArgv: [] })
  let given = 0
  try {
    await new Promise<void>((resolve, reject) => {
      const give = (buffer: ArrayBuffer) => {
        const piece = next()
        if (piece) {
          given++
          worker.postMessage({ piece, buffer }, [buffer])
        } else if (given === 0) resolve()
      }
      worker.on('message', ({ piece, buffer }: { piece: Piece; buffer: ArrayBuffer }) => {
        given--
        write(piece, new Float32Array(buffer, 0, piece.size))
        give(buffer)
      })
      worker.on('error', reject)
      for (let i = 0; i < givenAtOnce; i++) give(new ArrayBuffer(4 * pieceSize))
    })
  } finally {
    await worker.terminate()
  }
}

/**
 * Writes the initial weights of `seed`: the same as those that `Parameters` is made with. The event loop has a turn after each piece, so
 * that signals are heard.
 */
export async function drawWeights(
  parameters: Parameters,
  config: ModelConfig,
  seed: number,
  { threads, progress = () => {}, signal }: DrawOptions,
): Promise<void> {
  const specs = parameterSpecs(config).all
  const total = parameters.count
  const pieces = piecesOf(specs)
  const next = () => (signal?.aborted ? undefined : pieces.next().value)
  let done = 0
  const write: WritePiece = (piece, values) => {
    parameters.write(piece, values)
    progress((done += piece.size), total)
  }
  const wanted = Math.min(threads, mostThreads, Math.floor(total / leastOfThread))
  if (wanted > 1) {
    await Promise.all(Array.from({ length: wanted }, () => drawInThread({ config, seed }, next, write)))
    return
  }
  for (let piece = next(); piece; piece = next()) {
    write(piece, drawPiece(specs, seed, piece))
    await setImmediate()
  }
}
