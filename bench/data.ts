import { appendFileSync, closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openCorpus } from '../src/data/corpus.ts'
import { countWords } from '../src/data/count_words.ts'
import { embeddedDocuments } from '../src/data/embedded.ts'
import { mixtureOf } from '../src/data/mixture.ts'
import { translatePattern } from '../src/data/pattern.ts'
import { Sampler } from '../src/data/sampler.ts'
import { patterns, wordsBy } from '../src/data/splits.ts'
import { tokenizeFiles } from '../src/data/tokenize.ts'
import { openTokenizer } from '../src/data/tokenizers.ts'
import { trainedJson, trainMerges } from '../src/data/train_merges.ts'

/**
 * Speed of what comes before training: a tokenizer trained on the embedded English, that text encoded by it, and batches drawn from a gigabyte of
 * shards. Times of the processor are beside those of the clock, for machines that are shared.
 */

export interface DataFigure {
  readonly what: string
  readonly seconds: number
  readonly cpuSeconds: number
  readonly megabytes: number
  /** Megabytes a second of the clock, and of one processor's time. */
  readonly rate: number
  readonly cpuRate: number
}

interface DataOptions {
  readonly threads: number
  /** Tokens of the vocabulary. */
  readonly vocabulary: number
}

async function timed(what: string, megabytes: number, work: () => unknown): Promise<DataFigure> {
  const [start, before] = [performance.now(), process.cpuUsage()]
  await work()
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(before)
  const cpuSeconds = (user + system) / 1e6
  return { what, seconds, cpuSeconds, megabytes, rate: megabytes / seconds, cpuRate: megabytes / cpuSeconds }
}

const copies = 6

/** Draws batches from a file of 2^30 bytes; the file is empty space, which reads as fast as what is in the system's memory. */
async function drawBatches(folder: string): Promise<DataFigure> {
  const path = join(folder, 'large.bin')
  const file = openSync(path, 'w')
  ftruncateSync(file, 2 ** 30)
  closeSync(file)
  const { sources, tokenizer } = openCorpus(path, 'bytes')
  const [sequence, batch, steps] = [2048, 64, 100]
  const sampler = new Sampler(
    sources,
    tokenizer,
    { mixture: mixtureOf({}, steps, batch), seed: 1, batch },
    { sequence, microBatch: batch, boundaries: 'reset' },
  )
  return timed(`batches of ${batch} x ${sequence} from 1 GiB of shards`, (steps * batch * sequence * 2) / 1e6, () => {
    for (let step = 0; step < steps; step++) {
      sampler.batch(step, 0)
      sampler.prefetch(step + 1)
    }
  })
}

export async function measureData(
  { threads, vocabulary }: DataOptions,
  print: (text: string) => void,
): Promise<DataFigure[]> {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-bench-data-'))
  const figures: DataFigure[] = []
  const add = (figure: DataFigure) => {
    figures.push(figure)
    const { what, seconds, rate, cpuRate } = figure
    print(`${what}: ${seconds.toFixed(2)} s, ${rate.toFixed(1)} MB/s, ${cpuRate.toFixed(1)} MB per second of one core`)
  }
  try {
    const { training, validation } = embeddedDocuments()
    const text = Buffer.concat([...training, ...validation].map(document => document.text))
    const path = join(folder, 'text.txt')
    writeFileSync(path, text)
    const json = join(folder, 'tokenizer.json')
    add(
      await timed(`train-tokenizer, ${vocabulary} tokens`, text.length / 1e6, async () => {
        const { counts } = await countWords([path], 'text', wordsBy(translatePattern(patterns.gpt2)))
        const special = ['<|endoftext|>']
        writeFileSync(json, trainedJson(trainMerges(counts, vocabulary, special), special, patterns.gpt2))
      }),
    )
    const tokenizer = openTokenizer(json)
    const encode = () => {
      for (const document of training) tokenizer.encode(document.text)
    }
    const megabytes = training.reduce((sum, document) => sum + document.text.length, 0) / 1e6
    add(await timed('encode, first time', megabytes, encode))
    add(await timed('encode, words known', megabytes, encode))
    for (let i = 1; i < copies; i++) appendFileSync(path, text)
    const out = join(folder, 'out')
    const options = { files: [path], tokenizer: json, out, column: 'text', shardTokens: 2 ** 26, workers: threads }
    add(await timed(`tokenize, ${threads} threads`, (copies * text.length) / 1e6, () => tokenizeFiles(options)))
    add(await drawBatches(folder))
    return figures
  } finally {
    rmSync(folder, { recursive: true })
  }
}
