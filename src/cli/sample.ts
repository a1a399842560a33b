import type { Command } from 'commander'
import type { Tokenizer } from '../data/tokenizer.ts'
import type { Model } from '../model/model.ts'
import { addDrawOptions } from './generate.ts'
import { openModel } from './session.ts'
import { continueText, printable, type TextOptions } from './text.ts'

/** Weights and activations in BF16: a quantised tensor's scale would let later tokens change earlier ones. */
const samplingRecipe = 'bf16'

/** Continuation of `prompt` as text; a prompt may be empty. */
export const sampleText = (model: Model, tokenizer: Tokenizer, prompt: string, options: TextOptions): string =>
  [...continueText(model, tokenizer, prompt, samplingRecipe, options)].join('')

interface Options extends Omit<TextOptions, 'capacity'> {
  prompt: string
  step?: number
  json?: boolean
}

export function register(program: Command): void {
  addDrawOptions(program.command('sample'))
    .description(
      'Continue a text with the model of a run. Weights and activations are in BF16, whatever the recipe of the run.',
    )
    .addHelpText(
      'after',
      `
Examples:
  halfbyte sample runs/tiny-001 --prompt "My fellow citizens"
  halfbyte sample runs/tiny-001 --temperature 0 --length 80`,
    )
    .action(async (directory: string, { prompt, step, json, ...options }: Options) => {
      const { model, tokenizer, config, checkpoint } = await openModel(directory, step)
      const capacity = config.data.sequence
      const text = sampleText(model, tokenizer, prompt, { ...options, capacity })
      const { step: steps } = checkpoint.state
      process.stdout.write(
        json ? `${JSON.stringify({ step: steps, prompt, text })}\n` : `${printable(prompt + text)}\n`,
      )
    })
}
