import type { Command } from 'commander'
import { UserError } from '../config/errors.ts'
import { unknownName } from '../config/keys.ts'
import { bitsPerByte } from '../data/sampler.ts'
import { recipes } from '../recipes/recipes.ts'
import type { ValidationResult } from '../train/trainer.ts'
import { openWeights, wholeNumber } from './session.ts'

/** `1.2345 nats per token, 1.781 bits per byte`. */
export const lossSentence = ({ loss, tokens, bytes }: ValidationResult): string =>
  `${loss.toFixed(4)} nats per token, ${bitsPerByte(loss, tokens, bytes).toFixed(4)} bits per byte`

export function register(program: Command): void {
  program
    .command('validate')
    .description('Loss of a run’s model on the held-out text: the batches that training validates on.')
    .argument('<run>', 'run directory')
    .option('--recipe <name>', 'compute in this recipe instead of the run’s own, such as bf16')
    .option('--step <step>', 'checkpoint to use; default: the newest', wholeNumber(0))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Examples:
  halfbyte validate runs/tiny-001
  halfbyte validate runs/tiny-001 --recipe bf16     what quantising costs in the forward pass alone`,
    )
    .action(async (directory: string, { recipe, step, json }: { recipe?: string; step?: number; json?: boolean }) => {
      if (recipe !== undefined && !Object.hasOwn(recipes, recipe))
        throw new UserError(unknownName('recipe', recipe, Object.keys(recipes)), 2)
      const { trainer, config, checkpoint } = await openWeights(directory, step)
      const used = recipe ?? config.recipe
      const result = trainer.validate(used)
      const { step: steps } = checkpoint.state
      const bits = bitsPerByte(result.loss, result.tokens, result.bytes)
      process.stdout.write(
        json
          ? `${JSON.stringify({ step: steps, recipe: used, validation_loss: result.loss, bits_per_byte: bits, tokens: result.tokens })}\n`
          : `step ${steps}, recipe ${used}, ${result.tokens} held-out tokens: ${lossSentence(result)}\n`,
      )
    })
}
