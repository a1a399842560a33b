import { createHash } from 'node:crypto'
import { presets } from '../presets/index.ts'
import { openBackend } from '../src/backends/open.ts'
import { loadConfig } from '../src/config/load.ts'
import { openCorpus } from '../src/data/corpus.ts'
import { kernels } from '../src/kernels/index.ts'
import type { Case, Kernel } from '../src/tensor/kernel.ts'
import { Trainer } from '../src/train/trainer.ts'
import { runCase, variantsOf } from '../test/cases.ts'

/**
 * What this processor, compiler and instruction level compute, as short digests: of the results of every kernel's cases, and of a model after
 * a few steps of training. Two machines that print the same digests at the same commit compute the same bits.
 */

export interface Digest {
  /** A kernel, or the steps of training. */
  readonly what: string
  readonly cases: number
  /** The first 12 hexadecimal digits of a SHA-256. */
  readonly digest: string
}

interface DigestOptions {
  readonly level?: string | undefined
  readonly threads: number
  /** Leave out cases whose dimensions multiply to more: emulated processors are slow. */
  readonly most: number
}

const steps = 3
const overrides = ['recipe=nvfp4', 'data.batch=2', 'data.micro_batch=2', 'data.sequence=128']

const sizeOfCase = ({ dims }: Case): number => Object.values(dims).reduce((size, dim) => size * Math.max(1, dim), 1)

export async function digests(
  { level, threads, most }: DigestOptions,
  show: (digest: Digest) => void,
): Promise<Digest[]> {
  const backend = await openBackend('cpu', kernels, { threads, ...(level !== undefined && { level }) })
  const found: Digest[] = []
  const add = (what: string, cases: number, parts: Iterable<ArrayBufferView>) => {
    const hash = createHash('sha256')
    for (const { buffer, byteOffset, byteLength } of parts) hash.update(new Uint8Array(buffer, byteOffset, byteLength))
    found.push({ what, cases, digest: hash.digest('hex').slice(0, 12) })
    show(found.at(-1)!)
  }
  for (const kernel of kernels as readonly Kernel[]) {
    const cases = kernel.cases.filter(testCase => !testCase.bench && sizeOfCase(testCase) <= most)
    const variants = variantsOf(kernel)
    const results = cases.flatMap(testCase =>
      variants.flatMap(act => [...runCase(backend, kernel, testCase, act).values()]),
    )
    add(kernel.name, cases.length * variants.length, results)
  }
  const config = loadConfig('tiny', overrides, presets)
  const trainer = new Trainer(config, backend, openCorpus(config.data.files, config.data.tokenizer, config.data))
  const losses = Float64Array.from({ length: steps }, (_, step) => trainer.step(step).loss)
  const { model, optimizer } = trainer
  const moments = Object.values(optimizer.moments).map(moment => moment.floats())
  add(`losses of tiny, ${overrides.join(' ')}`, steps, [losses])
  add('its weights and moments', steps, [model.parameters.value.floats(), ...moments])
  backend.close()
  return found
}
