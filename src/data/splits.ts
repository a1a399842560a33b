import { CorpusError } from './errors.ts'
import { translatePattern } from './pattern.ts'

/**
 * Pre-tokenisation: how text is cut into the words that byte pairs are merged within, as the `pre_tokenizer` of a `tokenizer.json` says.
 */

const endings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const tail = '|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
const [upper, lower] = ['[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]', '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]']
const cased = (letters: string) => `[^\\r\\n\\p{L}\\p{N}]?${letters}${endings}?`

/** Patterns that cut words, in Oniguruma's syntax: that of GPT-2, which `ByteLevel` applies where `use_regex` is set; of GPT-4 and Llama 3; of GPT-4o. */
export const patterns = {
  gpt2: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  cl100k: `${endings}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*${tail}`,
  o200k: `${cased(`${upper}*${lower}+`)}|${cased(`${upper}+${lower}*`)}|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*${tail}`,
} as const

/** Calls `word` with the range of every word of a text, in their order. */
export type Words = (text: string, word: (text: string, from: number, to: number) => void) => void

/** A step of pre-tokenisation: pieces of a piece. */
type Cut = (piece: string) => string[]

interface Range {
  from: number
  to: number
  match: boolean
}

/** Matches of a pattern and what lies between them. */
function ranges(text: string, pattern: RegExp): Range[] {
  const found: Range[] = []
  let end = 0
  for (const { index, 0: match } of text.matchAll(pattern)) {
    if (match === '') continue
    if (index > end) found.push({ from: end, to: index, match: false })
    end = index + match.length
    found.push({ from: index, to: end, match: true })
  }
  if (end < text.length) found.push({ from: end, to: text.length, match: false })
  return found
}

/** Joins a range to the piece before it where `joins` says so of it and the range before. */
function merge(all: readonly Range[], joins: (range: Range, before: Range) => boolean): Range[] {
  const merged: Range[] = []
  for (const [i, range] of all.entries()) {
    if (i > 0 && joins(range, all[i - 1]!)) merged.at(-1)!.to = range.to
    else merged.push({ ...range })
  }
  return merged
}

/** What becomes of matches, by the name of the behaviour. */
const behaviours: Readonly<Record<string, (all: readonly Range[]) => readonly Range[]>> = {
  Isolated: all => all,
  Removed: all => all.filter(({ match }) => !match),
  Contiguous: all => merge(all, (range, before) => range.match === before.match),
  MergedWithPrevious: all => merge(all, (range, before) => range.match && !before.match),
  MergedWithNext: all => merge(all, (range, before) => !range.match && before.match),
}

const splitBy =
  (pattern: RegExp, behaviour: string, invert: boolean): Cut =>
  piece => {
    const all = ranges(piece, pattern)
    const marked = invert ? all.map(range => ({ ...range, match: !range.match })) : all
    return behaviours[behaviour]!(marked).map(({ from, to }) => piece.slice(from, to))
  }

/** The words that a pattern cuts, without an object for each: where one match ends the next is tried, and only a gap is searched. */
export function wordsBy(pattern: RegExp): Words {
  const sticky = new RegExp(pattern.source, 'yu')
  /** Where a match that is not empty begins at or after `from`. */
  const nextMatch = (text: string, from: number): number => {
    pattern.lastIndex = from
    for (;;) {
      const match = pattern.exec(text)
      if (!match) return text.length
      if (match[0] !== '') return match.index
      pattern.lastIndex = match.index + 1
    }
  }
  return (text, word) => {
    for (let at = 0; at < text.length; ) {
      sticky.lastIndex = at
      const found = sticky.test(text) && sticky.lastIndex > at
      const to = found ? sticky.lastIndex : nextMatch(text, at)
      word(text, at, to)
      at = to
    }
  }
}

const whole: Words = (text, word) => {
  if (text !== '') word(text, 0, text.length)
}

/** One step as the file describes it. */
export interface PreTokenizerJson {
  readonly type: string
  readonly pretokenizers?: readonly PreTokenizerJson[]
  readonly pattern?: { readonly Regex?: string; readonly String?: string }
  readonly behavior?: string
  readonly invert?: boolean
  readonly add_prefix_space?: boolean
  readonly use_regex?: boolean
  readonly individual_digits?: boolean
}

/** A step of the pipeline: a cut, and the same as words where it is nothing but the matches of a pattern and the gaps. */
interface Step {
  readonly cut: Cut
  readonly words?: Words
}

const isolated = (pattern: RegExp): Step => ({ cut: splitBy(pattern, 'Isolated', false), words: wordsBy(pattern) })

const escaped = (text: string): RegExp =>
  new RegExp([...text].map(character => `\\u{${character.codePointAt(0)!.toString(16)}}`).join(''), 'gu')

function splitStep({ pattern, behavior = 'Isolated', invert = false }: PreTokenizerJson): Step {
  const expression =
    pattern?.Regex !== undefined
      ? translatePattern(pattern.Regex)
      : pattern?.String
        ? escaped(pattern.String)
        : undefined
  if (!expression || !Object.hasOwn(behaviours, behavior))
    throw new CorpusError(`pre_tokenizer Split with behavior ${behavior} is not understood`)
  return behavior === 'Isolated' ? isolated(expression) : { cut: splitBy(expression, behavior, invert) }
}

const prefixSpace: Step = { cut: piece => [piece.startsWith(' ') ? piece : ` ${piece}`] }

/** How each type of step becomes steps of the pipeline. */
const types: Readonly<Record<string, (json: PreTokenizerJson) => Step[]>> = {
  Sequence: ({ pretokenizers = [] }) => pretokenizers.flatMap(stepsOf),
  ByteLevel: ({ add_prefix_space: prefix = true, use_regex: regex = true }) => [
    ...(prefix ? [prefixSpace] : []),
    ...(regex ? [isolated(translatePattern(patterns.gpt2))] : []),
  ],
  Split: json => [splitStep(json)],
  Digits: ({ individual_digits: individual = false }) => [isolated(individual ? /\p{N}/gu : /\p{N}+/gu)],
}

function stepsOf(json: PreTokenizerJson): Step[] {
  const type = Object.hasOwn(types, json.type) ? types[json.type] : undefined
  if (!type)
    throw new CorpusError(
      `pre_tokenizer "${json.type}" is not understood; those known are ${Object.keys(types).join(', ')}`,
    )
  return type(json)
}

/**
 * Pre-tokenisation as a `tokenizer.json` describes it.
 * @throws CorpusError naming a step or pattern that is not understood.
 */
export function openSplits(json: PreTokenizerJson | null): Words {
  const steps = json ? stepsOf(json) : []
  const last = steps.at(-1)
  const cuts = (last?.words ? steps.slice(0, -1) : steps).map(({ cut }) => cut)
  const words = last?.words ?? whole
  if (cuts.length === 0) return words
  return (text, word) => {
    let pieces = [text]
    for (const cut of cuts) pieces = pieces.flatMap(cut)
    for (const piece of pieces) words(piece, word)
  }
}
