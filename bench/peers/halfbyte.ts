import { createInterface } from 'node:readline'
import { openBackend } from '../../src/backends/open.ts'
import type { RunConfig } from '../../src/config/schema.ts'
import { runSchema } from '../../src/config/schema.ts'
import type { Corpus } from '../../src/data/corpus.ts'
import { Stream } from '../../src/formats/philox.ts'
import { kernels } from '../../src/kernels/index.ts'
import { Trainer } from '../../src/train/trainer.ts'

/** halfbyte's side of the step benchmark: the protocol of peer.py, with `recipe` in place of `mode`, on the cpu backend. */

export interface PeerSpec {
  readonly kind: 'dense' | 'hybrid'
  readonly width: number
  /** Layers of attention and FFN; a hybrid has `pattern` instead. */
  readonly depth?: number
  readonly pattern?: string
  readonly ffn: number
  readonly heads: number
  readonly kv_heads: number
  readonly head_dim: number
  readonly mamba_heads?: number
  readonly mamba_head_dim?: number
  readonly state?: number
  readonly groups?: number
  readonly chunk?: number
  readonly vocab: number
  readonly batch: number
  readonly sequence: number
  readonly threads: number
}

/** Random text: what is learnt does not matter here. */
function randomCorpus(vocab: number, tokens: number): Corpus {
  const random = new Stream(1, 0)
  const stream = {
    tokens: Uint16Array.from({ length: tokens }, () => random.below(vocab)),
    documents: 1,
    bytes: tokens,
  }
  return {
    tokenizer: {
      name: 'random',
      tokens: vocab,
      vocab,
      separator: vocab - 1,
      encode: () => new Uint16Array(0),
      decode: () => '',
      bytesOf: () => 1,
    },
    training: stream,
    validation: stream,
    fingerprint: '',
  }
}

function configOf(spec: PeerSpec, recipe: string): RunConfig {
  const { kind, width, depth, pattern, vocab, batch, sequence, threads, ...sizes } = spec
  const { mamba_heads, mamba_head_dim, state, groups, chunk, ffn, heads, kv_heads, head_dim } = sizes
  const mamba = kind === 'hybrid' ? { mamba_heads, mamba_head_dim, state, groups, chunk } : {}
  return runSchema.parse({
    steps: 1_000_000,
    recipe,
    threads,
    model: {
      pattern: pattern ?? '*-'.repeat(depth!),
      hidden: width,
      ffn,
      heads,
      kv_heads,
      head_dim,
      ...mamba,
      vocab,
      init_std: 0.02,
      activations: 'f32',
    },
    data: { sequence, batch, micro_batch: batch },
    optimizer: { lr: 1e-3 },
  }) as RunConfig
}

async function main(): Promise<void> {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
  const { recipe, ...spec } = JSON.parse((await lines.next()).value) as PeerSpec & { recipe: string }
  const backend = await openBackend('cpu', kernels, { threads: spec.threads, report: line => console.error(line) })
  const corpus = randomCorpus(spec.vocab, 64 * spec.batch * spec.sequence)
  const trainer = new Trainer(configOf(spec, recipe), backend, corpus)
  let step = 0
  for (; step < 2; step++) trainer.step(step)
  console.log(JSON.stringify({ ready: trainer.model.parameters.count }))
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const start = performance.now()
    let loss = 0
    for (const end = step + Number(line.value); step < end; step++) loss = trainer.step(step).loss
    const seconds = (performance.now() - start) / 1000
    console.log(JSON.stringify({ seconds, loss, peak_bytes: process.resourceUsage().maxRSS * 1024 }))
  }
}

await main()
