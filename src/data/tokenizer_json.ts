import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { AddedToken } from './added_tokens.ts'
import { readBytes } from './byte_level.ts'
import { bytePairTokenizer } from './byte_pair.ts'
import { CorpusError } from './errors.ts'
import { MergeTable } from './merges.ts'
import { readTokenizer } from './read_tokenizer.ts'
import { openSplits, type PreTokenizerJson } from './splits.ts'
import type { Tokenizer } from './tokenizer.ts'
import { wrongShape } from './tokenizer_shape.ts'

/** Reads Hugging Face's `tokenizer.json`: byte-level BPE, as GPT-2, Llama 3, Qwen and Nemotron have it. */

interface NormalizerJson {
  readonly type: string
  readonly normalizers?: readonly NormalizerJson[]
}

interface ModelJson {
  readonly type?: string
  readonly vocab?: Readonly<Record<string, number>>
  readonly merges?: readonly (string | readonly [string, string])[]
  readonly ignore_merges?: boolean
  readonly dropout?: number | null
  readonly byte_fallback?: boolean
  readonly continuing_subword_prefix?: string | null
  readonly end_of_word_suffix?: string | null
}

interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[] | null
  readonly normalizer?: NormalizerJson | null
  readonly pre_tokenizer?: PreTokenizerJson | null
  readonly model?: ModelJson
}

const forms = ['NFC', 'NFD', 'NFKC', 'NFKD']

function openNormalizer(json: NormalizerJson | null | undefined): ((text: string) => string) | undefined {
  if (!json) return undefined
  if (forms.includes(json.type)) return text => text.normalize(json.type)
  if (json.type !== 'Sequence')
    throw new CorpusError(`normalizer "${json.type}" is not understood; those known are ${forms.join(', ')}`)
  const all = (json.normalizers ?? []).flatMap(inner => openNormalizer(inner) ?? [])
  return all.length > 0 ? text => all.reduce((sum, normalize) => normalize(sum), text) : undefined
}

const isByteLevel = (json: PreTokenizerJson | null | undefined): boolean =>
  json?.type === 'ByteLevel' || (json?.pretokenizers ?? []).some(isByteLevel)

/** Old files, as GPT-2's, do not say it: only BPE has merges. */
const typeOf = (model: ModelJson | undefined): string | undefined => model?.type ?? (model?.merges ? 'BPE' : undefined)

/** What keeps a model from being byte-level BPE, or undefined. */
function unfit({ model, pre_tokenizer }: TokenizerJson): string | undefined {
  const type = typeOf(model)
  if (!model || type !== 'BPE') return `found the model ${type ?? 'of no type'}, wanted BPE`
  if (!model.vocab || !model.merges) return `found a model without ${model.vocab ? 'merges' : 'vocab'}, wanted BPE`
  if (!isByteLevel(pre_tokenizer)) return 'found no ByteLevel pre_tokenizer, wanted byte-level BPE'
  if (model.dropout) return `found dropout ${model.dropout}, wanted none`
  if (model.byte_fallback) return 'found byte_fallback, wanted byte-level BPE'
  if (model.continuing_subword_prefix || model.end_of_word_suffix)
    return 'found a prefix or suffix of subwords, wanted byte-level BPE'
  return undefined
}

/** Contents that end a document in tokenizers of today, in the order of preference. */
const endings = [
  '<|endoftext|>',
  '<|end_of_text|>',
  '<｜end▁of▁sentence｜>',
  '</s>',
  '<eos>',
  '<|eot_id|>',
  '<|im_end|>',
]

/** `eos_token` of the `tokenizer_config.json` beside the file, which most models have. */
function configuredEnding(path: string): string | undefined {
  try {
    const { eos_token: token } = JSON.parse(readFileSync(join(dirname(path), 'tokenizer_config.json'), 'utf8')) as {
      eos_token?: string | { content?: string }
    }
    return typeof token === 'string' ? token : token?.content
  } catch {
    return undefined
  }
}

function findSeparator(
  path: string,
  wanted: string | undefined,
  ids: ReadonlyMap<string, number>,
  special: string[],
): number {
  const candidates = wanted === undefined ? [configuredEnding(path), ...endings] : [wanted]
  for (const content of candidates) {
    const id = content === undefined ? undefined : ids.get(content)
    if (id !== undefined) return id
  }
  const known = special.length > 0 ? special.slice(0, 8).join(', ') : 'none'
  throw new CorpusError(
    wanted === undefined
      ? `${path}: none of its tokens is known to end a document; name one as in ${path}#TOKEN (its special tokens: ${known})`
      : `${path} has no token ${wanted} to end documents with (its special tokens: ${known})`,
  )
}

/**
 * @param separator Content of the token that stands between documents; absent: `eos_token` of the tokenizer_config.json beside it, or a usual one.
 * @throws CorpusError naming what is no JSON, or what of it is not understood.
 */
export function openTokenizerJson(name: string, path: string, separator: string | undefined): Tokenizer {
  const text = readTokenizer(path, 'utf8')
  let json: TokenizerJson
  try {
    json = JSON.parse(text) as TokenizerJson
  } catch {
    throw new CorpusError(`tokenizer ${path}: found text that is not JSON, wanted a tokenizer.json`)
  }
  const wrong = wrongShape(json) ?? unfit(json)
  if (wrong) throw new CorpusError(`tokenizer ${path}: ${wrong}`)
  try {
    return openModel(name, path, separator, json, text)
  } catch (error) {
    if (error instanceof CorpusError && !error.message.startsWith(path))
      throw new CorpusError(`tokenizer ${path}: ${error.message}`)
    throw error
  }
}

function openModel(
  name: string,
  path: string,
  separator: string | undefined,
  { added_tokens, normalizer, pre_tokenizer: splits, model }: TokenizerJson,
  text: string,
): Tokenizer {
  const { vocab, merges, ignore_merges: ignoreMerges = false } = model as Required<ModelJson>
  const added = added_tokens ?? []
  const ids = new Map(Object.entries(vocab))
  const pieces: (Uint8Array | undefined)[] = []
  const byteTokens = new Int32Array(256).fill(-1)
  const whole = new Map<string, number>()
  const place = (id: number, content: string, bytes: Uint8Array): void => {
    if (!Number.isInteger(id) || id < 0 || id >= 2 ** 24)
      throw new CorpusError(`token ${JSON.stringify(content)} has the number ${id}, wanted a whole number below 2^24`)
    while (pieces.length <= id) pieces.push(undefined)
    pieces[id] = bytes
  }
  for (const [content, id] of ids) {
    const bytes = readBytes(content)
    if (pieces[id] !== undefined)
      throw new CorpusError(`token ${JSON.stringify(content)} has the number ${id} of another`)
    place(id, content, bytes ?? Buffer.from(content, 'utf8'))
    if (bytes?.length === 1) byteTokens[bytes[0]!] = id
    if (bytes && ignoreMerges) whole.set(Buffer.from(bytes).toString('latin1'), id)
  }
  const table = new MergeTable(merges.length)
  for (const [rank, merge] of merges.entries()) {
    const [left, right] = (typeof merge === 'string' ? merge.split(' ') : merge) as [string, string]
    const [a, b, merged] = [ids.get(left), ids.get(right), ids.get(left + right)]
    if (a === undefined || b === undefined || merged === undefined)
      throw new CorpusError(`merge ${rank} (${left} ${right}) has a part or a result that is no token`)
    table.add(a, b, rank, merged)
  }
  const normalize = openNormalizer(normalizer)
  for (const { id, content, normalized } of added) {
    place(id, content, Buffer.from(normalized && normalize ? normalize(content) : content, 'utf8'))
    ids.set(content, id)
  }
  const special = added.filter(token => token.special).map(({ content }) => content)
  return bytePairTokenizer({
    name,
    pieces,
    added,
    separator: findSeparator(path, separator, ids, special),
    ...(normalize && { normalize }),
    words: openSplits(splits ?? null),
    byteTokens,
    merges: table,
    ...(ignoreMerges && { whole }),
    json: () => text,
  })
}
