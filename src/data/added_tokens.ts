import { space } from './pattern.ts'

/** Tokens that stand for a text of their own and are found before words are: `<|endoftext|>`. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Not within a word. */
  readonly single_word: boolean
  /** Takes the white space before it, after it. */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Looked for in normalised text. */
  readonly normalized: boolean
  readonly special: boolean
}

/** A special token without conditions on what is around it. */
export const specialToken = (content: string, id: number): AddedToken => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
})

/** Calls back for every piece of a text in order: either plain text or an added token. */
export type AddedTokenSplit = (text: string, plain: (text: string) => void, token: (id: number) => void) => void

const literally = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')

const word = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}'
const wordBefore = new RegExp(`[${word}]$`, 'u')
const wordAfter = new RegExp(`^[${word}]`, 'u')
const spaceBefore = new RegExp(`[${space}]*$`, 'u')
const spaceAfter = new RegExp(`^[${space}]*`, 'u')

/** Finds the leftmost of the tokens, of several there the longest. */
export function splitAddedTokens(tokens: readonly AddedToken[]): AddedTokenSplit {
  if (tokens.length === 0) return (text, plain) => plain(text)
  const byContent = new Map(tokens.map(token => [token.content, token]))
  const longestFirst = [...byContent.keys()].sort((a, b) => b.length - a.length)
  const pattern = new RegExp(longestFirst.map(literally).join('|'), 'g')
  return (text, plain, found) => {
    let done = 0
    for (const { 0: content, index } of text.matchAll(pattern)) {
      const { id, single_word, lstrip, rstrip } = byContent.get(content)!
      let [from, to] = [index, index + content.length]
      if (single_word && (wordBefore.test(text.slice(0, from)) || wordAfter.test(text.slice(to)))) continue
      if (lstrip) from = Math.max(done, from - spaceBefore.exec(text.slice(done, from))![0].length)
      if (rstrip) to += spaceAfter.exec(text.slice(to))![0].length
      if (from > done) plain(text.slice(done, from))
      found(id)
      done = to
    }
    if (done < text.length) plain(text.slice(done))
  }
}
