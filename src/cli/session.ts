import { InvalidArgumentError } from 'commander'
import { openBackend } from '../backends/open.ts'
import { UserError } from '../config/errors.ts'
import type { RunConfig } from '../config/schema.ts'
import { type Corpus, openCorpus } from '../data/corpus.ts'
import type { Tokenizer } from '../data/tokenizer.ts'
import { openTokenizer } from '../data/tokenizers.ts'
import { kernels } from '../kernels/index.ts'
import type { Model } from '../model/model.ts'
import { type Checkpoint, findCheckpoint } from '../run/checkpoint.ts'
import { readConfig } from '../run/read.ts'
import type { Backend } from '../tensor/backend.ts'
import { Trainer } from '../train/trainer.ts'
import { type CreateOptions, createModel, restoreWeights } from '../train/weights.ts'
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
export function checkTokenizer({ model }: RunConfig, { name, tokens }: Tokenizer): void {
  if (model.vocab < tokens)
    throw new UserError(
      `model.vocab: found ${model.vocab}, wanted at least ${tokens}, the tokens of the tokenizer ${name}`,
    )
}

/** @throws UserError if the config does not fit the text or the recipe. */
export function createTrainer(
  config: RunConfig,
  backend: Backend,
  corpus: Corpus,
  options: CreateOptions = {},
): Trainer {
  checkTokenizer(config, corpus.tokenizer)
  return new Trainer(config, backend, corpus, options)
}

/** The newest intact checkpoint of a run, or that of `step`. */
function openCheckpoint(directory: string, step: number | undefined) {
  const work = showWork()
  const config = readConfig(directory)
  return { config, checkpoint: findCheckpoint(directory, step, work.note, work), work }
}

export interface OpenedModel {
  readonly config: RunConfig
  readonly tokenizer: Tokenizer
  readonly backend: Backend
  readonly model: Model
  readonly checkpoint: Checkpoint
}

/** The model of a run at a checkpoint, for whoever generates: neither the text that it was trained on nor moments are read. */
export async function openModel(directory: string, step?: number): Promise<OpenedModel> {
  const { config, checkpoint, work } = openCheckpoint(directory, step)
  const tokenizer = openTokenizer(config.data.tokenizer)
  checkTokenizer(config, tokenizer)
  const backend = await openConfigured(config)
  const model = createModel(config, backend, { empty: true })
  restoreWeights(model, checkpoint, work)
  return { config, tokenizer, backend, model, checkpoint }
}

export interface OpenedRun {
  readonly config: RunConfig
  readonly corpus: Corpus
  readonly backend: Backend
  readonly trainer: Trainer
  readonly checkpoint: Checkpoint
}

/** The weights of a run at a checkpoint and its text, for whoever evaluates. */
export async function openWeights(directory: string, step?: number): Promise<OpenedRun> {
  const { config, checkpoint, work } = openCheckpoint(directory, step)
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
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < least)
      throw new InvalidArgumentError(`found ${text || 'nothing'}, wanted a whole number from ${least}`)
    return value
  }
