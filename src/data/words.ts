import { Merger, type MergeTable } from './merges.ts'

/** Code units of the longest word that is remembered. */
const longest = 64
const slotCount = 2 ** 18
/** At this many words everything is forgotten, which bounds the memory that a stream of random words would take. */
const mostWords = slotCount / 2

function grown(array: Int32Array<ArrayBuffer>, wanted: number): Int32Array<ArrayBuffer> {
  if (wanted <= array.length) return array
  const larger = new Int32Array(Math.max(wanted, array.length * 2))
  larger.set(array)
  return larger
}

/** What words are encoded by. */
export interface WordModel {
  /** Token of each byte; -1 for a byte that the vocabulary lacks, which encodes to nothing. */
  readonly byteTokens: Int32Array
  readonly merges: MergeTable
  /** Whole words that are a token whatever the merges say (`ignore_merges`), by their bytes as Latin-1. */
  readonly whole?: ReadonlyMap<string, number>
}

/** Encodes words one after the other, and remembers the tokens of each: text is mostly words that came before. */
export class WordEncoder {
  readonly #model: WordModel
  readonly #merger: Merger
  /** Open-addressed: (hash, length of word x 2^16 + number of tokens, place of word, place of tokens); 0 in the second is empty. */
  readonly #slots = new Int32Array(slotCount * 4)
  #words = 0
  #letters = new Uint16Array(2 ** 16)
  #lettersUsed = 0
  #remembered = new Int32Array(2 ** 16)
  #rememberedUsed = 0
  #tokens = new Int32Array(2 ** 12)
  #length = 0

  constructor(model: WordModel) {
    this.#model = model
    this.#merger = new Merger(model.merges)
  }

  /** The tokens appended since the last call; valid until the next `append`. */
  take(): Int32Array {
    const tokens = this.#tokens.subarray(0, this.#length)
    this.#length = 0
    return tokens
  }

  appendToken(token: number): void {
    this.#tokens = grown(this.#tokens, this.#length + 1)
    this.#tokens[this.#length++] = token
  }

  /** Appends the tokens of one word. */
  readonly append = (text: string, from: number, to: number): void => {
    const length = to - from
    if (length > longest) {
      this.#encode(text.slice(from, to))
      return
    }
    let hash = length
    for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x9e3779b1)
    hash ^= hash >>> 15
    const slots = this.#slots
    let at = (hash & (slotCount - 1)) * 4
    for (let sizes = slots[at + 1]!; sizes !== 0; sizes = slots[at + 1]!) {
      if (slots[at] === hash && sizes >>> 16 === length && this.#isWord(slots[at + 2]!, text, from, to)) {
        const count = sizes & 0xffff
        const place = slots[at + 3]!
        if (this.#length + count > this.#tokens.length) this.#tokens = grown(this.#tokens, this.#length + count)
        for (let i = 0; i < count; i++) this.#tokens[this.#length + i] = this.#remembered[place + i]!
        this.#length += count
        return
      }
      at = (at + 4) & (slotCount * 4 - 1)
    }
    const begin = this.#length
    this.#encode(text.slice(from, to))
    this.#remember(at, hash, text, from, to, begin)
  }

  #isWord(place: number, text: string, from: number, to: number): boolean {
    for (let i = from; i < to; i++) if (this.#letters[place + i - from] !== text.charCodeAt(i)) return false
    return true
  }

  #remember(at: number, hash: number, text: string, from: number, to: number, begin: number): void {
    if (this.#words === mostWords) {
      this.#slots.fill(0)
      this.#words = this.#lettersUsed = this.#rememberedUsed = 0
      return
    }
    const count = this.#length - begin
    const length = to - from
    if (this.#lettersUsed + length > this.#letters.length) {
      const larger = new Uint16Array(this.#letters.length * 2)
      larger.set(this.#letters)
      this.#letters = larger
    }
    this.#remembered = grown(this.#remembered, this.#rememberedUsed + count)
    this.#slots[at] = hash
    this.#slots[at + 1] = length * 2 ** 16 + count
    this.#slots[at + 2] = this.#lettersUsed
    this.#slots[at + 3] = this.#rememberedUsed
    for (let i = from; i < to; i++) this.#letters[this.#lettersUsed++] = text.charCodeAt(i)
    this.#remembered.set(this.#tokens.subarray(begin, this.#length), this.#rememberedUsed)
    this.#rememberedUsed += count
    this.#words++
  }

  #encode(word: string): void {
    const bytes = Buffer.from(word, 'utf8')
    const { byteTokens, whole } = this.#model
    const known = whole?.get(bytes.toString('latin1'))
    if (known !== undefined) {
      this.appendToken(known)
      return
    }
    const tokens = this.#merger.room(bytes.length)
    let length = 0
    for (const byte of bytes) if (byteTokens[byte] !== -1) tokens[length++] = byteTokens[byte]!
    const count = this.#merger.merge(length)
    this.#tokens = grown(this.#tokens, this.#length + count)
    this.#tokens.set(tokens.subarray(0, count), this.#length)
    this.#length += count
  }
}
