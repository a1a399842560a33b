import { parentPort, workerData } from 'node:worker_threads'
import type { ModelConfig } from './config.ts'
import { drawPiece, type Piece } from './initialise.ts'
import { parameterSpecs } from './parameters.ts'

/** A thread that draws initial weights: started by draw.ts, answers every piece with its values, in the buffer that came with it. */

export interface DrawTask {
  readonly config: ModelConfig
  readonly seed: number
}

const { config, seed } = workerData as DrawTask
const specs = parameterSpecs(config).all

parentPort!.on('message', ({ piece, buffer }: { piece: Piece; buffer: ArrayBuffer }) => {
  drawPiece(specs, seed, piece, new Float32Array(buffer, 0, piece.size))
  parentPort!.postMessage({ piece, buffer }, [buffer])
})
