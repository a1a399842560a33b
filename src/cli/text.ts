import type { Tokenizer } from '../data/tokenizer.ts'
import { type GenerationOptions, generate } from '../model/generate.ts'
import type { Model } from '../model/model.ts'
import { findRecipe } from '../recipes/recipes.ts'

/** Text from a model, for commands. */

export type TextOptions = Omit<GenerationOptions, 'tokens' | 'recipe'>

/**
 * Continuation of `prompt`, which may be empty, piece by piece; a piece holds whole characters.
 * @param recipe one whose activations are not quantised.
 */
export function* continueText(
  model: Model,
  tokenizer: Tokenizer,
  prompt: string,
  recipe: string,
  options: TextOptions,
): Generator<string> {
  const start = [tokenizer.separator, ...tokenizer.encode(prompt)]
  let untold: number[] = []
  let made = 0
  for (const token of generate(model, start, { ...options, tokens: tokenizer.tokens, recipe: findRecipe(recipe) })) {
    made++
    untold.push(token)
    const text = tokenizer.decode(untold)
    // A character whose bytes have not all been made is a replacement at the end, for now.
    if (text.endsWith('\ufffd') && made < options.length) continue
    yield text
    untold = []
  }
}

/** Control characters would disturb a terminal; line breaks and tabs may stay. */
export const printable = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is meant
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '\ufffd')
