import { renderTable } from '../src/cli/table.ts'
import { median } from '../src/compare/statistics.ts'
import { usableProcessors } from '../src/tensor/processors.ts'
import { Contestant, tokensOf } from './peers/contestant.ts'
import type { ModelSpec } from './peers/work.ts'
import { models } from './peers.ts'

/**
 * How the cost of a training step in NVFP4 grows with the width of a model and with its context. Every size is a process of its own, so
 * that its peak of memory is its own. A step has 2048 tokens, or one sequence where that is longer.
 */

const threads = usableProcessors()
const shared = { head_dim: 64, vocab: 8192, threads } as const
const tokens = 2048

const dense = (width: number, sequence: number): ModelSpec => ({
  ...shared,
  kind: 'dense',
  width,
  depth: 4,
  ffn: 4 * width,
  heads: width / 64,
  kv_heads: Math.max(1, width / 128),
  batch: Math.max(1, tokens / sequence),
  sequence,
})

const hybrid = (sequence: number): ModelSpec => ({
  ...models['hybrid-256']!,
  threads,
  batch: Math.max(1, tokens / sequence),
  sequence,
})

const widths = [128, 256, 512, 1024, 2048]
const contexts = [128, 256, 512, 1024, 2048, 4096, 8192]

interface Series {
  readonly name: string
  readonly of: 'width' | 'context'
  readonly sizes: readonly number[]
  readonly spec: (size: number) => ModelSpec
}

const series: readonly Series[] = [
  { name: 'dense, depth 4, context 256', of: 'width', sizes: widths, spec: width => dense(width, 256) },
  { name: 'dense, depth 4, width 256', of: 'context', sizes: contexts, spec: context => dense(256, context) },
  { name: 'hybrid M-M-M*M-, width 256', of: 'context', sizes: contexts, spec: hybrid },
]

export interface GrowthResult {
  readonly series: string
  readonly of: 'width' | 'context'
  readonly size: number
  readonly parameters: number
  readonly tokens: number
  readonly tokensPerSecond: number
  readonly peakBytes: number
  /** d log(time of a token) / d log(size) from the size before. */
  readonly exponent?: number
  /** The same of peak memory. */
  readonly memoryExponent?: number
}

export interface GrowthOptions {
  /** Seconds measured for each size, at least one step. */
  readonly seconds: number
  /** Sizes above are left out. */
  readonly most: number
}

async function measure(spec: ModelSpec, seconds: number) {
  const contestant = new Contestant(spec, { recipe: 'nvfp4' })
  try {
    const { ready: parameters } = await contestant.ready()
    const rates: number[] = []
    let peakBytes = 0
    const end = performance.now() + 1000 * seconds
    do {
      const { seconds: taken, peak_bytes } = await contestant.run(1)
      rates.push(tokensOf(spec) / taken)
      peakBytes = peak_bytes
    } while (performance.now() < end)
    return { parameters, tokens: tokensOf(spec), tokensPerSecond: median(rates), peakBytes }
  } finally {
    contestant.close()
  }
}

/** Measures all sizes, smallest first, and prints a table for each series. */
export async function growth(options: GrowthOptions, print: (text: string) => void): Promise<GrowthResult[]> {
  const all: GrowthResult[] = []
  for (const { name, of, sizes, spec } of series) {
    const results: GrowthResult[] = []
    for (const size of sizes.filter(size => size <= options.most)) {
      const measured = await measure(spec(size), options.seconds)
      const before = results.at(-1)
      const slope = (ratio: number) => Math.log(ratio) / Math.log(size / before!.size)
      results.push({
        series: name,
        of,
        size,
        ...measured,
        ...(before && {
          exponent: slope(before.tokensPerSecond / measured.tokensPerSecond),
          memoryExponent: slope(measured.peakBytes / before.peakBytes),
        }),
      })
    }
    print(`${name}, nvfp4, ${threads} threads\n${growthTable(of, results)}\n`)
    all.push(...results)
  }
  return all
}

function growthTable(of: string, results: readonly GrowthResult[]): string {
  const right = (title: string) => ({ title, align: 'right' }) as const
  return renderTable(
    [
      right(of),
      right('parameters'),
      right('tokens a step'),
      right('tokens/s'),
      right('exponent of time'),
      right('peak memory'),
      right('exponent of memory'),
    ],
    results.map(({ size, parameters, tokens, tokensPerSecond, peakBytes, exponent, memoryExponent }) => [
      `${size}`,
      parameters.toLocaleString('en-US'),
      `${tokens}`,
      tokensPerSecond.toFixed(0),
      exponent?.toFixed(2) ?? '',
      `${(peakBytes / 1e6).toFixed(0)} MB`,
      memoryExponent?.toFixed(2) ?? '',
    ]),
  )
}
