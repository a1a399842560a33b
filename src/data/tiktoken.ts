import { specialToken } from './added_tokens.ts'
import { showBytes } from './byte_level.ts'
import { bytePairTokenizer } from './byte_pair.ts'
import { CorpusError } from './errors.ts'
import { MergeTable } from './merges.ts'
import { translatePattern } from './pattern.ts'
import { readTokenizer } from './read_tokenizer.ts'
import { patterns, wordsBy } from './splits.ts'
import { byteLevelJson, type Tokenizer } from './tokenizer.ts'

/**
 * Reads rank files of tiktoken: a line for each token, its bytes in base64 and its number. Two neighbours are joined if together they are a
 * token, that of the lowest number first. Pattern and special tokens are not in the file: they belong to the encoding, which is known by its
 * name or by how many ranks it has.
 */

interface Encoding {
  /** How many lines its file has. */
  readonly ranks: number
  readonly pattern: string
  readonly special: Readonly<Record<string, number>>
  /** The special token that ends a document. */
  readonly ending: string
}

const endOfText = '<|endoftext|>'

const encodings: Readonly<Record<string, Encoding>> = {
  r50k_base: { ranks: 50_256, pattern: patterns.gpt2, special: { [endOfText]: 50_256 }, ending: endOfText },
  p50k_base: { ranks: 50_280, pattern: patterns.gpt2, special: { [endOfText]: 50_256 }, ending: endOfText },
  cl100k_base: {
    ranks: 100_256,
    pattern: patterns.cl100k,
    special: {
      [endOfText]: 100_257,
      '<|fim_prefix|>': 100_258,
      '<|fim_middle|>': 100_259,
      '<|fim_suffix|>': 100_260,
      '<|endofprompt|>': 100_276,
    },
    ending: endOfText,
  },
  o200k_base: {
    ranks: 199_998,
    pattern: patterns.o200k,
    special: { [endOfText]: 199_999, '<|endofprompt|>': 200_018 },
    ending: endOfText,
  },
  llama3: {
    ranks: 128_000,
    pattern: patterns.cl100k,
    special: { '<|begin_of_text|>': 128_000, '<|end_of_text|>': 128_001, '<|eot_id|>': 128_009 },
    ending: '<|end_of_text|>',
  },
}

/** Token numbers by their bytes, as Latin-1. */
function readRanks(path: string): Map<string, number> {
  const text = readTokenizer(path, 'latin1')
  const ranks = new Map<string, number>()
  let line = 0
  for (const row of text.split('\n')) {
    line++
    if (row === '') continue
    const match = /^([A-Za-z0-9+/]+=*) (\d{1,7})\r?$/.exec(row)
    if (!match)
      throw new CorpusError(
        `${path}, line ${line}: found ${JSON.stringify(row.slice(0, 40))}, wanted base64 and a number`,
      )
    ranks.set(Buffer.from(match[1]!, 'base64').toString('latin1'), Number(match[2]))
  }
  if (ranks.size === 0) throw new CorpusError(`${path} is empty; ranks of tiktoken are wanted`)
  return ranks
}

/** An encoding by name or number of ranks; in a file of another size its one special token comes after the last rank. */
function findEncoding(path: string, ranks: ReadonlyMap<string, number>, wanted: string | undefined): Encoding {
  const bySize = Object.values(encodings).find(encoding => encoding.ranks === ranks.size)
  if (wanted === undefined && bySize) return bySize
  if (wanted === undefined || !Object.hasOwn(encodings, wanted))
    throw new CorpusError(
      `${path} has ${ranks.size} ranks, which tells no encoding${wanted === undefined ? '' : `, and "${wanted}" is none`}; name one of ${Object.keys(encodings).join(', ')} as in tiktoken:${path}#cl100k_base`,
    )
  const named = encodings[wanted]!
  if (named.ranks === ranks.size) return named
  let last = 0
  for (const rank of ranks.values()) last = Math.max(last, rank)
  return { ...named, special: { [named.ending]: last + 1 } }
}

/** Every way of making each token of two others: (left, right, token). */
function* splits(ranks: ReadonlyMap<string, number>): Generator<[string, string, number]> {
  for (const [piece, rank] of ranks)
    for (let at = 1; at < piece.length; at++) {
      const [left, right] = [piece.slice(0, at), piece.slice(at)]
      if (ranks.has(left) && ranks.has(right)) yield [left, right, rank]
    }
}

/** @param encodingName One of the known encodings; absent: the one with as many ranks. */
export function openTiktoken(name: string, path: string, encodingName: string | undefined): Tokenizer {
  const ranks = readRanks(path)
  const { pattern, special, ending } = findEncoding(path, ranks, encodingName)
  const pieces: (Uint8Array | undefined)[] = []
  const byteTokens = new Int32Array(256).fill(-1)
  const place = (token: number, bytes: Uint8Array): void => {
    while (pieces.length <= token) pieces.push(undefined)
    pieces[token] = bytes
  }
  for (const [piece, rank] of ranks) {
    place(rank, Buffer.from(piece, 'latin1'))
    if (piece.length === 1) byteTokens[piece.charCodeAt(0)] = rank
  }
  const table = new MergeTable(ranks.size * 4)
  for (const [left, right, rank] of splits(ranks)) table.add(ranks.get(left)!, ranks.get(right)!, rank, rank)
  const added = Object.entries(special).map(([content, id]) => specialToken(content, id))
  for (const { id, content } of added) place(id, Buffer.from(content, 'utf8'))
  const shown = (piece: string): string => showBytes(Buffer.from(piece, 'latin1'))
  return bytePairTokenizer({
    name,
    pieces,
    added,
    separator: special[ending]!,
    words: wordsBy(translatePattern(pattern)),
    byteTokens,
    merges: table,
    whole: ranks,
    json: () =>
      byteLevelJson({
        vocab: Object.fromEntries([...ranks].map(([piece, rank]) => [shown(piece), rank])),
        merges: [...splits(ranks)]
          .sort((a, b) => a[2] - b[2] || ranks.get(a[0])! - ranks.get(b[0])!)
          .map(([left, right]) => [shown(left), shown(right)]),
        special,
        pattern,
        ignoreMerges: true,
      }),
  })
}
