import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { openBackend } from '../src/backends/open.ts'
import { loadConfig } from '../src/config/load.ts'
import type { RunConfig, RunPreset } from '../src/config/schema.ts'
import { type Corpus, openCorpus } from '../src/data/corpus.ts'
import { Stream } from '../src/formats/philox.ts'
import { kernels } from '../src/kernels/index.ts'
import { Trainer } from '../src/train/trainer.ts'
import { cliArguments } from './cli.ts'

/** What tests of training share: a model of 37,000 weights with every kind of block, and a text that it learns in a second. */

const words = 'the quick brown fox jumps over a lazy dog and captain of ship saw whale'.split(' ')

/** About `length` bytes of words drawn at random: what follows within a word is certain, the next word is not. */
export function wordText(length: number, seed = 1): string {
  const random = new Stream(seed, 0)
  let text = ''
  while (text.length < length) text += words[random.below(words.length)] + (random.below(9) === 0 ? '.\n' : ' ')
  return text
}

/** A folder of this test file's own, deleted at its end, with the text in `text.txt`. */
export function testFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-train-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'text.txt'), wordText(40_000))
  return folder
}

/** In nvfp4 its last block stays in BF16. */
export const small = (files: string) =>
  ({
    name: 'small-test',
    steps: 40,
    recipe: 'nvfp4',
    threads: 1,
    model: {
      pattern: 'M-*-',
      hidden: 32,
      ffn: 64,
      heads: 2,
      kv_heads: 1,
      head_dim: 16,
      mamba_heads: 16,
      mamba_head_dim: 4,
      groups: 2,
      state: 8,
      chunk: 16,
      vocab: 272,
      init_std: 0.08,
    },
    data: { files, sequence: 32, batch: 4, micro_batch: 2 },
    optimizer: { lr: 4e-3 },
    checkpoint: { every: 4 },
    validation: { every: 10, batches: 2 },
  }) as const satisfies RunPreset

export const smallConfig = (folder: string, ...overrides: string[]): RunConfig =>
  loadConfig('small', overrides, { small: small(join(folder, 'text.txt')) })

/** The same config as a file for the command line; returns its path. */
export function configFile(folder: string, ...overrides: string[]): string {
  const path = join(folder, 'small.json')
  writeFileSync(path, JSON.stringify(smallConfig(folder, ...overrides)))
  return path
}

/** A trainer on a backend of its own. */
export async function openTrainer(
  config: RunConfig,
  corpus: Corpus = openCorpus(config.data.files, config.data.tokenizer, config.data),
): Promise<Trainer> {
  const { backend, threads, level } = config
  const options = { ...(threads !== undefined && { threads }), ...(level !== undefined && { level }) }
  return new Trainer(config, await openBackend(backend, kernels, options), corpus)
}

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** The command line in a process that goes on while the test looks at it. */
export function startCli(args: readonly string[], cwd = process.cwd()) {
  const child = spawn(process.execPath, cliArguments(args), {
    cwd,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const ended = new Promise<Ended>(resolve =>
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr })),
  )
  return { child, ended }
}
