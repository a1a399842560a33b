import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { packageRoot } from '../src/backends/open.ts'
import { renderTable } from '../src/cli/table.ts'
import type { PeerSpec } from './peers/halfbyte.ts'

/**
 * One training step of the same model in halfbyte and in PyTorch, on the same cores. Every contestant is a process of its own; they
 * take turns for a few rounds, so that a change of the machine's speed meets all of them. Medians over rounds, ratios of medians.
 */

interface Contestant {
  readonly name: string
  readonly kinds: readonly PeerSpec['kind'][]
  /** Added to the model's description: a recipe of halfbyte, or a mode of peer.py. */
  readonly choice: { readonly recipe: string } | { readonly mode: string }
}

const contestants: readonly Contestant[] = [
  { name: 'halfbyte nvfp4', kinds: ['dense', 'hybrid'], choice: { recipe: 'nvfp4' } },
  { name: 'halfbyte bf16', kinds: ['dense', 'hybrid'], choice: { recipe: 'bf16' } },
  { name: 'halfbyte fp32', kinds: ['dense', 'hybrid'], choice: { recipe: 'fp32' } },
  { name: 'PyTorch fp32 eager', kinds: ['dense', 'hybrid'], choice: { mode: 'eager' } },
  { name: 'PyTorch fp32 compiled', kinds: ['dense'], choice: { mode: 'compile' } },
  { name: 'PyTorch, NVFP4 faked', kinds: ['dense'], choice: { mode: 'fake_nvfp4' } },
]

const threads = availableParallelism()

const models: Readonly<Record<string, PeerSpec>> = {
  'dense-256': {
    kind: 'dense',
    width: 256,
    depth: 6,
    ffn: 1024,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    vocab: 8192,
    batch: 8,
    sequence: 256,
    threads,
  },
  'dense-512': {
    kind: 'dense',
    width: 512,
    depth: 8,
    ffn: 2048,
    heads: 8,
    kv_heads: 2,
    head_dim: 64,
    vocab: 8192,
    batch: 4,
    sequence: 512,
    threads,
  },
  'hybrid-256': {
    kind: 'hybrid',
    pattern: 'M-M-M*M-',
    width: 256,
    ffn: 1024,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    mamba_heads: 8,
    mamba_head_dim: 64,
    state: 64,
    groups: 2,
    chunk: 128,
    vocab: 8192,
    batch: 8,
    sequence: 256,
    threads,
  },
}

interface Answer {
  readonly seconds: number
  readonly loss: number
  readonly peak_bytes: number
}

/** A process that runs steps when told to. */
class Peer {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  #errors = ''

  constructor(command: string, args: readonly string[], spec: object) {
    this.#child = spawn(command, args)
    this.#child.stderr.on('data', chunk => (this.#errors = (this.#errors + chunk).slice(-2000)))
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
    this.#child.stdin.write(`${JSON.stringify(spec)}\n`)
  }

  async #answer<T>(): Promise<T> {
    const line = await this.#lines.next()
    if (line.done) throw new Error(`a contestant ended early: ${this.#errors}`)
    return JSON.parse(line.value)
  }

  ready(): Promise<{ ready: number }> {
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

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export interface PeersOptions {
  /** Python with the packages of bench/peers/requirements.txt. */
  readonly python?: string
  readonly models?: readonly string[]
  readonly rounds?: number
  /** Seconds that each contestant computes in a round. */
  readonly seconds?: number
}

export interface PeerResult {
  readonly model: string
  readonly name: string
  readonly parameters: number
  readonly tokensPerSecond: number
  readonly peakBytes: number
}

const defaultPython = (): string => join(packageRoot(), 'bench', 'peers', '.venv', 'bin', 'python')

async function compare(
  model: string,
  spec: PeerSpec,
  python: string,
  rounds: number,
  seconds: number,
): Promise<PeerResult[]> {
  const here = dirname(fileURLToPath(import.meta.url))
  const peerScript = join(packageRoot(), 'bench', 'peers', 'peer.py')
  const entered: { name: string; peer: Peer; parameters: number; steps: number; answers: Answer[] }[] = []
  for (const { name, kinds, choice } of contestants) {
    if (!kinds.includes(spec.kind)) continue
    const ours = 'recipe' in choice
    const [command, script] = ours ? [process.execPath, join(here, 'peers', 'halfbyte.js')] : [python, peerScript]
    const peer = new Peer(command, [script], { ...spec, ...choice })
    const { ready: parameters } = await peer.ready()
    const first = await peer.run(1)
    entered.push({ name, peer, parameters, steps: Math.max(1, Math.round(seconds / first.seconds)), answers: [] })
  }
  for (let round = 0; round < rounds; round++)
    for (const one of entered) one.answers.push(await one.peer.run(one.steps))
  for (const { peer } of entered) peer.close()
  const tokens = spec.batch * spec.sequence
  return entered.map(({ name, parameters, steps, answers }) => ({
    model,
    name,
    parameters,
    tokensPerSecond: median(answers.map(({ seconds: taken }) => (steps * tokens) / taken)),
    peakBytes: answers.at(-1)!.peak_bytes,
  }))
}

const resultTable = (results: readonly PeerResult[]): string => {
  const ours = results.find(({ name }) => name === 'halfbyte nvfp4')!
  const right = { align: 'right' } as const
  return renderTable(
    [
      { title: 'contestant' },
      { title: 'parameters', ...right },
      { title: 'tokens/s', ...right },
      { title: 'nvfp4 is faster by', ...right },
      { title: 'peak memory', ...right },
    ],
    results.map(({ name, parameters, tokensPerSecond, peakBytes }) => [
      name,
      parameters.toLocaleString('en-US'),
      tokensPerSecond.toFixed(0),
      `${(ours.tokensPerSecond / tokensPerSecond).toFixed(2)}x`,
      `${(peakBytes / 1e6).toFixed(0)} MB`,
    ]),
  )
}

/** Runs the comparison and prints a table for each model. */
export async function peers(options: PeersOptions, print: (text: string) => void): Promise<PeerResult[]> {
  const { python = defaultPython(), rounds = 5, seconds = 3 } = options
  if (!existsSync(python))
    throw new Error(
      `${python} does not exist: make it with "python3 -m venv bench/peers/.venv && bench/peers/.venv/bin/pip install -r bench/peers/requirements.txt", or name another with --python`,
    )
  const all: PeerResult[] = []
  for (const model of options.models ?? Object.keys(models)) {
    const spec = models[model]
    if (!spec) throw new Error(`model ${model} is unknown; use ${Object.keys(models).join(', ')}`)
    const results = await compare(model, spec, python, rounds, seconds)
    print(`${model}, ${spec.batch} x ${spec.sequence} tokens, ${threads} threads, median of ${rounds} rounds`)
    print(`${resultTable(results)}\n`)
    all.push(...results)
  }
  return all
}
