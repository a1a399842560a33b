import { openBackend } from '../backends/open.ts'
import { UserError } from '../config/errors.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Corpus, openCorpus } from '../data/corpus.ts'
import { kernels } from '../kernels/index.ts'
import { type Checkpoint, findCheckpoint } from '../run/checkpoint.ts'
import { readConfig } from '../run/read.ts'
import type { Backend } from '../tensor/backend.ts'
import { Trainer } from '../train/trainer.ts'
import type { CreateOptions } from '../train/weights.ts'
import { showWork } from './progress.ts'

/** What commands that compute with a model share: opening its backend, text and weights. */

export const toStderr = (line: string): void => {
  process.stderr.write(`${line}\n`)
}

export const openConfigured = ({ backend, threads, level, libraries }: RunConfig): Promise<Backend> =>
  openBackend(backend, kernels, {
    ...(threads !== undefined && { threads }),
    ...(level !== undefined && { level }),
    ...(libraries !== undefined && { libraries }),
    report: toStderr,
  })

/** @throws UserError if the tokenizer has more tokens than the model. */
export function checkTokenizer(config: RunConfig, corpus: Corpus): void {
  if (config.model.vocab < corpus.tokenizer.tokens)
    throw new UserError(
      `model.vocab: found ${config.model.vocab}, wanted at least ${corpus.tokenizer.tokens}, the tokens of the tokenizer ${corpus.tokenizer.name}`,
    )
}

/** @throws UserError if the config does not fit the text or the recipe. */
export function createTrainer(
  config: RunConfig,
  backend: Backend,
  corpus: Corpus,
  options: CreateOptions = {},
): Trainer {
  checkTokenizer(config, corpus)
  return new Trainer(config, backend, corpus, options)
}

export interface OpenedRun {
  readonly config: RunConfig
  readonly corpus: Corpus
  readonly backend: Backend
  readonly trainer: Trainer
  readonly checkpoint: Checkpoint
}

/** The weights of a run, of its newest intact checkpoint or of that of `step`, for whoever only reads them. */
export async function openWeights(directory: string, step?: number): Promise<OpenedRun> {
  const config = readConfig(directory)
  const work = showWork()
  const checkpoint = findCheckpoint(directory, step, work.note, work)
  const corpus = openCorpus(config.data.files, config.data.tokenizer, config.data)
  const backend = await openConfigured(config)
  const trainer = createTrainer(config, backend, corpus, { empty: true })
  trainer.restoreWeights(checkpoint, work)
  return { config, corpus, backend, trainer, checkpoint }
}

/** A whole number from an option's text, for commander. */
export const wholeNumber =
  (least: number) =>
  (text: string): number => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < least)
      throw new UserError(`found ${text}, wanted a whole number from ${least}`, 2)
    return value
  }
