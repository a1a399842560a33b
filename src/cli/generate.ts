import { type Command, Option } from 'commander'
import { UserError } from '../config/errors.ts'
import { useWeights, type WeightKind, weightKinds } from '../model/weights.ts'
import { openModel, toStderr, wholeNumber } from './session.ts'
import { continueText, printable } from './text.ts'

/** A number from `least` to `most`, for commander. */
const decimal =
  (option: string, least: number, most: number) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() === '' || !(value >= least && value <= most))
      throw new UserError(`${option}: found ${text}, wanted a number, ${least} to ${most}`, 2)
    return value
  }

interface Options {
  prompt: string
  length: number
  temperature: number
  topK: number
  topP: number
  seed: number
  weights: WeightKind
  context?: number
  step?: number
  json?: boolean
}

async function generateText(directory: string, { prompt, weights, context, step, json, ...options }: Options) {
  const { model, tokenizer, config, checkpoint, backend } = await openModel(directory, step)
  const coded = useWeights(model, weights)
  const began = performance.now()
  let text = ''
  let first = began
  if (!json) process.stdout.write(printable(prompt))
  const capacity = context ?? config.data.sequence
  for (const piece of continueText(model, tokenizer, prompt, 'fp32', { ...options, capacity })) {
    if (text === '') first = performance.now()
    text += piece
    if (!json) process.stdout.write(printable(piece))
  }
  const ended = performance.now()
  const result = {
    step: checkpoint.state.step,
    prompt,
    text,
    weights,
    coded_linears: coded,
    first_token_seconds: (first - began) / 1000,
    tokens_per_second: options.length > 1 ? ((options.length - 1) * 1000) / (ended - first) : null,
  }
  backend.close()
  if (json) return void process.stdout.write(`${JSON.stringify(result)}\n`)
  process.stdout.write('\n')
  const speed = result.tokens_per_second === null ? '' : `, then ${result.tokens_per_second.toFixed(1)} tokens/s`
  toStderr(
    `${options.length} tokens: the first after ${result.first_token_seconds.toFixed(2)} s${speed}; weights ${weights}${coded ? ` of ${coded} linear layers` : ''}`,
  )
}

/** What `generate` and `sample` both take. */
export const addDrawOptions = (command: Command): Command =>
  command
    .argument('<run>', 'run directory')
    .option('--prompt <text>', 'text to continue', '')
    .option('--length <tokens>', 'tokens to make', wholeNumber(1), 200)
    .option(
      '--temperature <number>',
      '0 is always the likeliest token, 1 the model’s own distribution',
      decimal('--temperature', 0, 10),
      0.8,
    )
    .option('--top-k <tokens>', 'draw from the likeliest only; 0: from all', wholeNumber(0), 40)
    .option(
      '--top-p <share>',
      'draw from the likeliest that hold this share of the probability',
      decimal('--top-p', 0, 1),
      1,
    )
    .option('--seed <number>', 'of the draws; the same seed gives the same text', wholeNumber(0), 1)
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--json', 'print JSON')

export function register(program: Command): void {
  addDrawOptions(program.command('generate'))
    .description(
      'Continue a text token by token, with weights as a deployed model holds them and activations that are not quantised; says how fast.',
    )
    .addOption(
      new Option(
        '--weights <kind>',
        'bf16; codes: the 4-bit or 8-bit values that training computes with; f32: master weights',
      )
        .choices(weightKinds)
        .default('bf16'),
    )
    .option(
      '--context <tokens>',
      'tokens back that attention sees; default: the sequence of the training',
      wholeNumber(1),
    )
    .addHelpText(
      'after',
      `
Keys and values of attention and states of Mamba-2 blocks are kept, so that a token costs the same wherever it stands. "sample" is this with BF16 products.

Examples:
  halfbyte generate runs/tiny-001 --prompt "My fellow citizens" --length 400
  halfbyte generate runs/tiny-001 --weights codes --temperature 0
  halfbyte generate runs/tiny-001 --top-k 0 --top-p 0.9 --seed 7 --json`,
    )
    .action(generateText)
}
