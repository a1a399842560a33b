import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../src/backends/open.ts'
import { renderTable } from '../src/cli/table.ts'
import { median } from '../src/compare/statistics.ts'
import { type Answer, type Choice, Contestant, tokensOf } from './peers/contestant.ts'
import type { LinearSpec, ModelSpec, PeerSpec } from './peers/work.ts'

/**
 * One training step of the same model, or one linear layer, in halfbyte and in PyTorch, on the same cores. Every contestant is a process of its own; they
 * take turns for a few rounds, so that a change of the machine's speed meets all of them. Medians over rounds, ratios of medians.
 */

interface Entry {
  readonly name: string
  readonly kinds: readonly PeerSpec['kind'][]
  readonly choice: Choice
}

const entries: readonly Entry[] = [
  { name: 'halfbyte nvfp4', kinds: ['dense', 'hybrid', 'linear'], choice: { recipe: 'nvfp4' } },
  { name: 'halfbyte bf16', kinds: ['dense', 'hybrid', 'linear'], choice: { recipe: 'bf16' } },
  { name: 'halfbyte fp32', kinds: ['dense', 'hybrid', 'linear'], choice: { recipe: 'fp32' } },
  { name: 'PyTorch fp32 eager', kinds: ['dense', 'hybrid', 'linear'], choice: { mode: 'eager' } },
  { name: 'PyTorch fp32 compiled', kinds: ['dense'], choice: { mode: 'compile' } },
  { name: 'PyTorch, NVFP4 faked', kinds: ['dense'], choice: { mode: 'fake_nvfp4' } },
]

/** What `peers` trains, by name. */
export const models: Readonly<Record<string, Omit<ModelSpec, 'threads'>>> = {
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
  },
}

const layers: Readonly<Record<string, Omit<LinearSpec, 'threads'>>> = {
  'linear-512': { kind: 'linear', width: 512, tokens: 2048 },
  'linear-1024': { kind: 'linear', width: 1024, tokens: 2048 },
}

const suites = { peers: models, linear: layers } as const
export type PeerSuite = keyof typeof suites

export interface PeersOptions {
  /** Python with the packages of bench/peers/requirements.txt. */
  readonly python?: string | undefined
  /** Names of models or layers; default: all of the suite. */
  readonly models?: readonly string[] | undefined
  readonly threads: number
  readonly rounds?: number
  /** Seconds that each contestant computes in a round. */
  readonly seconds?: number
}

export interface PeerResult {
  readonly model: string
  readonly name: string
  readonly parameters: number
  /** Of the first step, on other data and other initial weights for each contestant; 0 for a layer. */
  readonly firstLoss: number
  readonly tokensPerSecond: number
  /** Tokens per second that all threads spent: on a busy machine the fairer figure, with one thread. */
  readonly tokensPerCpuSecond: number
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
  const all: Contestant[] = []
  try {
    const started = []
    for (const { name, kinds, choice } of entries) {
      if (!kinds.includes(spec.kind)) continue
      const contestant = new Contestant(spec, choice, python)
      all.push(contestant)
      const { ready: parameters, loss: firstLoss } = await contestant.ready()
      await contestant.run(1)
      const steps = Math.max(1, Math.round(seconds / (await contestant.run(1)).seconds))
      started.push({ name, contestant, parameters, firstLoss, steps, answers: [] as Answer[] })
    }
    for (let round = 0; round < rounds; round++)
      for (const { contestant, steps, answers } of started) answers.push(await contestant.run(steps))
    const tokens = tokensOf(spec)
    return started.map(({ name, parameters, firstLoss, steps, answers }) => ({
      model,
      name,
      parameters,
      firstLoss,
      tokensPerSecond: median(answers.map(({ seconds: taken }) => (steps * tokens) / taken)),
      tokensPerCpuSecond: median(answers.map(({ cpu_seconds: taken }) => (steps * tokens) / taken)),
      peakBytes: answers.at(-1)!.peak_bytes,
    }))
  } finally {
    for (const contestant of all) contestant.close()
  }
}

const resultTable = (results: readonly PeerResult[]): string => {
  const ours = results.find(({ name }) => name === 'halfbyte nvfp4')!
  const right = { align: 'right' } as const
  return renderTable(
    [
      { title: 'contestant' },
      { title: 'parameters', ...right },
      { title: 'first loss', ...right },
      { title: 'tokens/s', ...right },
      { title: 'nvfp4 is faster by', ...right },
      { title: 'tokens/CPU s', ...right },
      { title: 'by', ...right },
      { title: 'peak memory', ...right },
    ],
    results.map(({ name, parameters, firstLoss, tokensPerSecond, tokensPerCpuSecond, peakBytes }) => [
      name,
      parameters.toLocaleString('en-US'),
      firstLoss ? firstLoss.toFixed(2) : '',
      tokensPerSecond.toFixed(0),
      `${(ours.tokensPerSecond / tokensPerSecond).toFixed(2)}x`,
      tokensPerCpuSecond.toFixed(0),
      `${(ours.tokensPerCpuSecond / tokensPerCpuSecond).toFixed(2)}x`,
      `${(peakBytes / 1e6).toFixed(0)} MB`,
    ]),
  )
}

/** Runs the comparison and prints a table for each model or layer. */
export async function peers(
  suite: PeerSuite,
  options: PeersOptions,
  print: (text: string) => void,
): Promise<PeerResult[]> {
  const { python = defaultPython(), rounds = 5, seconds = 3, threads } = options
  if (!existsSync(python))
    throw new Error(
      `${python} does not exist: make it with "python3 -m venv bench/peers/.venv && bench/peers/.venv/bin/pip install -r bench/peers/requirements.txt", or name another with --python`,
    )
  const specs: Readonly<Record<string, Omit<ModelSpec, 'threads'> | Omit<LinearSpec, 'threads'>>> = suites[suite]
  const all: PeerResult[] = []
  for (const model of options.models ?? Object.keys(specs)) {
    const found = specs[model]
    if (!found) throw new Error(`model ${model} is unknown; use ${Object.keys(specs).join(', ')}`)
    const spec: PeerSpec = { ...found, threads }
    const results = await compare(model, spec, python, rounds, seconds)
    print(`${model}, ${tokensOf(spec)} tokens, ${threads} threads, median of ${rounds} rounds`)
    print(`${resultTable(results)}\n`)
    all.push(...results)
  }
  return all
}
