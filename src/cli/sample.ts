import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import type { Tokenizer } from '../data/tokenizer.ts'
import { generate } from '../model/generate.ts'
import type { Model } from '../model/model.ts'
import { findRecipe } from '../recipes/recipes.ts'
import { openWeights, wholeNumber } from './session.ts'

export interface TextOptions {
  readonly length: number
  readonly temperature: number
  readonly topK: number
  readonly seed: number
  readonly window: number
}

/** Weights and activations in BF16: a quantised tensor's scale would let later tokens change earlier ones. */
const samplingRecipe = 'bf16'

/** Continuation of `prompt` as text; a prompt may be empty. */
export function sampleText(model: Model, tokenizer: Tokenizer, prompt: string, options: TextOptions): string {
  const start = [tokenizer.separator, ...tokenizer.encode(prompt)]
  const recipe = findRecipe(samplingRecipe)
  return tokenizer.decode([...generate(model, start, { ...options, tokens: tokenizer.tokens, recipe })])
}

/** Control characters would disturb a terminal; line breaks and tabs may stay. */
export const printable = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is meant
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '\ufffd')

const decimal = (text: string): number => {
  const value = Number(text)
  if (!(value >= 0 && value <= 10)) throw new UserError(`--temperature: found ${text}, wanted a number, 0 to 10`, 2)
  return value
}

interface Options {
  prompt: string
  length: number
  temperature: number
  topK: number
  seed: number
  step?: number
  json?: boolean
}

export function register(program: Command): void {
  program
    .command('sample')
    .description(
      'Continue a text with the model of a run. Weights and activations are in BF16, whatever the recipe of the run.',
    )
    .argument('<run>', 'run directory')
    .option('--prompt <text>', 'text to continue', '')
    .option('--length <tokens>', 'tokens to make', wholeNumber(1), 200)
    .option('--temperature <number>', '0 is always the likeliest token, 1 the model’s own distribution', decimal, 0.8)
    .option('--top-k <tokens>', 'draw from the likeliest only; 0: from all', wholeNumber(0), 40)
    .option('--seed <number>', 'of the draws; the same seed gives the same text', wholeNumber(0), 1)
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Examples:
  halfbyte sample runs/tiny-001 --prompt "My fellow citizens"
  halfbyte sample runs/tiny-001 --temperature 0 --length 80`,
    )
    .action(async (directory: string, { prompt, step, json, ...options }: Options) => {
      const { trainer, corpus, config, checkpoint } = await openWeights(directory, step)
      const text = sampleText(trainer.model, corpus.tokenizer, prompt, { ...options, window: config.data.sequence })
      const { step: steps } = checkpoint.state
      process.stdout.write(
        json ? `${JSON.stringify({ step: steps, prompt, text })}\n` : `${printable(prompt + text)}\n`,
      )
    })
}
