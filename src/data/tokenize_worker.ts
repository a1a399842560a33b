import { parentPort, workerData } from 'node:worker_threads'
import { encodeUnit } from './encode_unit.ts'
import { CorpusError } from './errors.ts'
import type { UnitPlace } from './read_unit.ts'
import { openTokenizer } from './tokenizers.ts'
import type { Unit } from './units.ts'

/** A thread that encodes units: started by workers.ts, answers every message in turn. */

export interface WorkerTask {
  readonly unit: Unit
  readonly place: UnitPlace
}

const tokenizer = openTokenizer(workerData as string)

parentPort!.on('message', async ({ unit, place }: WorkerTask) => {
  try {
    const encoded = await encodeUnit(unit, place, tokenizer)
    parentPort!.postMessage({ encoded }, [encoded.tokens.buffer as ArrayBuffer, encoded.lengths.buffer as ArrayBuffer])
  } catch (error) {
    const { message, stack } = error as Error
    parentPort!.postMessage({ failure: { message, stack, isOfCorpus: error instanceof CorpusError } })
  }
})
