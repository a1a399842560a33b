import { CorpusError } from './errors.ts'

/**
 * Patterns of tokenizers are written for Oniguruma; this turns them into JavaScript's. What differs: white space (U+0085 is, U+FEFF is not),
 * `(?i:...)`, possessive quantifiers and atomic groups, `^` and `$` at every line, escapes of letters that need none. A construct that is not
 * understood is an error, never taken for something else. Characters that Unicode has added since Oniguruma's tables were made may fall into another class.
 */

/** White space as Unicode defines it, as the content of a class of a `u` expression. */
export const space = '\\t-\\r\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const notSpace =
  '\\0-\\x08\\x0e-\\x1f!-\\x84\\x86-\\x9f\\xa1-\\u167f\\u1681-\\u1fff\\u200b-\\u2027\\u202a-\\u202e\\u2030-\\u205e\\u2060-\\u2fff\\u3001-\\u{10ffff}'
const word = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}'

/** Content of a class for `\s` and its like. */
const shorthands: Readonly<Record<string, string>> = {
  s: space,
  S: notSpace,
  d: '\\p{Nd}',
  D: '\\P{Nd}',
  w: word,
  h: '0-9a-fA-F',
}
const controls = 'tnrfv'

/** Scripts by the names that Oniguruma takes as properties of their own. */
const scripts = new Set('Arabic Bopomofo Cyrillic Greek Han Hangul Hebrew Hiragana Katakana Latin Thai'.split(' '))

/** What a letter is taken for where case is ignored, by Unicode's simple folding. */
const folded: Readonly<Record<string, string>> = { s: 'sS\u017f', k: 'kK\u212a' }
const variants = (character: string): string => {
  const lower = character.toLowerCase()
  return folded[lower] ?? (lower === character.toUpperCase() ? character : lower + character.toUpperCase())
}

const literal = (character: string): string =>
  /[\\^$.*+?()[\]{}|/-]/.test(character) ? `\\u{${character.codePointAt(0)!.toString(16)}}` : character

class Translator {
  readonly #source: readonly string[]
  readonly #whole: string
  #at = 0
  #groups = 0

  constructor(pattern: string) {
    this.#whole = pattern
    this.#source = [...pattern]
  }

  translate(): string {
    const result = this.#alternatives(false)
    if (this.#at < this.#source.length) this.#fail('a closing parenthesis without its opening one')
    return result
  }

  #fail(what: string): never {
    throw new CorpusError(`pattern ${JSON.stringify(this.#whole)}: ${what} is not understood`)
  }

  get #next(): string | undefined {
    return this.#source[this.#at]
  }

  #take(text: string): boolean {
    if (this.#source.slice(this.#at, this.#at + text.length).join('') !== text) return false
    this.#at += text.length
    return true
  }

  #alternatives(ignoreCase: boolean): string {
    let result = ''
    while (this.#next !== undefined && this.#next !== ')') {
      if (this.#take('|')) {
        result += '|'
        continue
      }
      if (this.#take('(?i)')) {
        result += `(?:${this.#alternatives(true)})`
        continue
      }
      result += this.#quantified(this.#atom(ignoreCase))
    }
    return result
  }

  /** What no longer gives back what it has taken: a lookahead is never entered again. */
  #atomic(pattern: string): string {
    const name = `atomic${this.#groups++}`
    return `(?=(?<${name}>${pattern}))\\k<${name}>`
  }

  #quantified(atom: string): string {
    const rest = this.#source.slice(this.#at, this.#at + 24).join('')
    const match = /^(?:[*+?]|\{\d*,?\d*\})/.exec(rest)
    if (!match) return atom
    const quantifier = match[0].replace(/^\{,/, '{0,')
    this.#at += match[0].length
    if (this.#take('?')) return `${atom}${quantifier}?`
    if (!quantifier.startsWith('{') && this.#take('+')) return `(?:${this.#atomic(atom + quantifier)})`
    return this.#quantified(/^[*+?{]/.test(this.#next ?? '') ? `(?:${atom}${quantifier})` : atom + quantifier)
  }

  #group(ignoreCase: boolean): string {
    const kinds = ['?:', '?=', '?!', '?<=', '?<!', '?>', '?i:']
    const kind = kinds.find(candidate => this.#take(candidate))
    if (kind === undefined && this.#next === '?') this.#fail('a group with options')
    const inner = this.#alternatives(ignoreCase || kind === '?i:')
    if (!this.#take(')')) this.#fail('a group without its closing parenthesis')
    if (kind === '?>') return `(?:${this.#atomic(inner)})`
    return kind === undefined || kind === '?i:' ? `(?:${inner})` : `(${kind}${inner})`
  }

  #atom(ignoreCase: boolean): string {
    const character = this.#source[this.#at++]!
    if (character === '(') return this.#group(ignoreCase)
    if (character === '[') return this.#characterClass(ignoreCase)
    if (character === '.') return '[^\\n]'
    if (character === '^') return '(?<![^\\n])'
    if (character === '$') return '(?![^\\n])'
    if (character === '\\') {
      if (this.#take('A')) return '(?<![^])'
      if (this.#take('z')) return '(?![^])'
      const { content, single } = this.#escape()
      return single === undefined || !ignoreCase ? `[${content}]` : `[${variants(single)}]`
    }
    return ignoreCase && variants(character) !== character ? `[${variants(character)}]` : literal(character)
  }

  /** After a backslash: what stands for it in a class, and the character if it is one. */
  #escape(): { content: string; single?: string } {
    const character = this.#source[this.#at++]
    if (character === undefined) this.#fail('a backslash at the end')
    if (Object.hasOwn(shorthands, character)) return { content: shorthands[character]! }
    if (controls.includes(character)) return { content: `\\${character}` }
    if (character === 'p' || character === 'P') return { content: this.#property(character === 'P') }
    if (character === 'x' || character === 'u') {
      const rest = this.#source.slice(this.#at, this.#at + 10).join('')
      const match =
        /^\{([0-9a-fA-F]+)\}/.exec(rest) ?? (character === 'x' ? /^([\da-fA-F]{2})/ : /^([\da-fA-F]{4})/).exec(rest)
      if (!match) this.#fail(`\\${character}`)
      this.#at += match[0].length
      return { content: `\\u{${match[1]!}}`, single: String.fromCodePoint(Number.parseInt(match[1]!, 16)) }
    }
    if (/[A-Za-z0-9]/.test(character)) this.#fail(`\\${character}`)
    return { content: literal(character), single: character }
  }

  #property(negative: boolean): string {
    const match = /^\{(\^?)([A-Za-z_]+)\}/.exec(this.#source.slice(this.#at, this.#at + 40).join(''))
    if (!match) this.#fail('\\p without a name in braces')
    this.#at += match[0].length
    const name = scripts.has(match[2]!) ? `Script=${match[2]}` : match[2]!
    return `\\${negative !== (match[1] === '^') ? 'P' : 'p'}{${name}}`
  }

  #characterClass(ignoreCase: boolean): string {
    let result = this.#take('^') ? '[^' : '['
    for (let first = true; first || this.#next !== ']'; first = false) {
      if (this.#next === undefined) this.#fail('a class without its closing bracket')
      if (this.#next === '[' || this.#take('&&')) this.#fail('a class in a class')
      const from = this.#classMember()
      const isRange = from.single !== undefined && this.#next === '-' && this.#source[this.#at + 1] !== ']'
      if (!isRange) {
        result +=
          ignoreCase && from.single !== undefined ? [...variants(from.single)].map(literal).join('') : from.content
        continue
      }
      this.#at++
      const to = this.#classMember()
      if (to.single === undefined) this.#fail('a range that ends in a class')
      result += `${from.content}-${to.content}`
      if (ignoreCase) result += this.#otherCase(from.single!, to.single)
    }
    this.#at++
    return `${result}]`
  }

  #classMember(): { content: string; single?: string } {
    if (this.#take('\\')) return this.#escape()
    const character = this.#source[this.#at++]!
    return { content: literal(character), single: character }
  }

  /** Letters that a range takes in where case is ignored, beside its own. */
  #otherCase(from: string, to: string): string {
    const [low, high] = [from.codePointAt(0)!, to.codePointAt(0)!]
    if (high > 0x7f) this.#fail('a range beyond ASCII where case is ignored')
    return Array.from({ length: high - low + 1 }, (_, i) => variants(String.fromCharCode(low + i)))
      .join('')
      .replace(/[^A-Za-z\u017f\u212a]/g, '')
  }
}

/**
 * A pattern of Oniguruma as a global JavaScript expression.
 * @throws CorpusError naming the construct that has no equivalent.
 */
export function translatePattern(pattern: string): RegExp {
  const source = new Translator(pattern).translate()
  try {
    return new RegExp(source, 'gu')
  } catch (error) {
    throw new CorpusError(`pattern ${JSON.stringify(pattern)} is not understood: ${(error as Error).message}`)
  }
}
