import type { GgufMetadata } from './gguf.ts'
import type { ExportedTokenizer } from './hf.ts'

/** A byte-level BPE `tokenizer.json` as the keys that llama.cpp reads: its tokenizer model is called gpt2 there, whoever's it is. */

interface TokenizerJson {
  readonly added_tokens?: readonly { readonly id: number; readonly content: string; readonly special: boolean }[]
  readonly pre_tokenizer?: unknown
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>
    readonly merges: readonly (string | readonly [string, string])[]
  }
}

/** llama.cpp's names for ways to cut text into words, by a pattern's text; byte-level alone is GPT-2's. */
const patterns: Readonly<Record<string, string>> = {
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    'llama-bpe',
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    'qwen2',
}

/** Every `Regex` in a description of pre-tokenisation. */
function regexesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'Regex' && typeof inner === 'string' ? [inner] : regexesIn(inner),
  )
}

/** llama.cpp's kinds of tokens. */
const kinds = { normal: 1, control: 3, userDefined: 4, unused: 5 } as const

/**
 * @param rows of the embedding; those without a token get one that no text has.
 * @param note told where llama.cpp has no name for the way that text is cut into words.
 */
export function tokenizerMetadata(
  tokenizer: ExportedTokenizer,
  rows: number,
  note: (sentence: string) => void,
): GgufMetadata {
  const { model, added_tokens: added = [], pre_tokenizer: pre } = JSON.parse(tokenizer.json()) as TokenizerJson
  const tokens = Array.from({ length: rows }, (_, i) => `[PAD${i}]`)
  const types: number[] = new Array(rows).fill(kinds.unused)
  for (const [text, id] of Object.entries(model.vocab)) {
    tokens[id] = text
    types[id] = kinds.normal
  }
  for (const { id, content, special } of added) {
    tokens[id] = content
    types[id] = special ? kinds.control : kinds.userDefined
  }
  const [pattern] = regexesIn(pre)
  const name = pattern === undefined ? 'gpt-2' : patterns[pattern]
  if (name === undefined)
    note(
      'llama.cpp has no name for how this tokenizer cuts text into words; "default" is written, which may cut otherwise',
    )
  return {
    'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
    'tokenizer.ggml.pre': { type: 'string', value: name ?? 'default' },
    'tokenizer.ggml.tokens': { type: 'string[]', value: tokens },
    'tokenizer.ggml.token_type': { type: 'i32[]', value: types },
    'tokenizer.ggml.merges': {
      type: 'string[]',
      value: model.merges.map(merge => (typeof merge === 'string' ? merge : merge.join(' '))),
    },
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: tokenizer.separator },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: tokenizer.separator },
    'tokenizer.ggml.add_bos_token': { type: 'bool', value: true },
  }
}
