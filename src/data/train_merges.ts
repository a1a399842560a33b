import { byteCharacters } from './byte_level.ts'
import { MergeTable } from './merges.ts'
import { byteLevelJson } from './tokenizer.ts'

/**
 * Training of byte-level BPE: words begin as their bytes, and again and again the pair of neighbours that is most frequent becomes a token of its own,
 * until the vocabulary is full. Of pairs that are equally frequent, the one of the smaller numbers goes first: (left, right) in their order. Tokens are
 * numbered: special ones, the 256 bytes in the order of the characters that show them, merges as they are made. All of it is what the Python
 * library's BpeTrainer does, so that both make the same merges of the same text.
 */

/** A pair in the queue: how often it occurred when it came there, and the words that had it. */
interface Candidate {
  count: number
  readonly left: number
  readonly right: number
  readonly words: number[]
}

const before = (a: Candidate, b: Candidate): boolean =>
  a.count !== b.count ? a.count > b.count : a.left !== b.left ? a.left < b.left : a.right < b.right

/** A binary heap, the most frequent pair on top. */
class Queue {
  readonly #heap: Candidate[] = []

  push(candidate: Candidate): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(candidate)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(candidate, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = candidate
  }

  pop(): Candidate | undefined {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (heap.length === 0 || !last) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (!before(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
    return top
  }
}

/** How often each pair occurs, and the words where it has come up since the queue was filled last. */
class PairCounts {
  readonly #places = new MergeTable(2 ** 16)
  readonly #counts: number[] = []
  readonly #pairs: (readonly [number, number])[] = []
  #fresh = new Map<number, number[]>()

  #placeOf(left: number, right: number): number {
    const known = this.#places.mergedAt(this.#places.find(left, right))
    if (known >= 0) return known
    const place = this.#counts.length
    this.#places.add(left, right, 0, place)
    this.#counts.push(0)
    this.#pairs.push([left, right])
    return place
  }

  add(left: number, right: number, change: number, word: number): void {
    const place = this.#placeOf(left, right)
    this.#counts[place]! += change
    if (change < 0) return
    const words = this.#fresh.get(place)
    if (!words) this.#fresh.set(place, [word])
    else if (words.at(-1) !== word) words.push(word)
  }

  of(left: number, right: number): number {
    return this.#counts[this.#placeOf(left, right)]!
  }

  /** Queues the pairs that have come up. */
  queue(queue: Queue): void {
    for (const [place, words] of this.#fresh) {
      const [left, right] = this.#pairs[place]!
      if (this.#counts[place]! > 0) queue.push({ count: this.#counts[place]!, left, right, words })
    }
    this.#fresh = new Map()
  }
}

/** Joins a pair wherever a word has it, from left to right, and counts what that changes. Returns how many tokens the word has then. */
function mergeWord(
  tokens: Int32Array,
  begin: number,
  length: number,
  pair: Candidate,
  merged: number,
  count: (left: number, right: number, sign: 1 | -1) => void,
): number {
  const { left, right } = pair
  let to = begin
  const end = begin + length
  for (let from = begin; from < end; from++, to++) {
    if (tokens[from] !== left || from + 1 >= end || tokens[from + 1] !== right) {
      tokens[to] = tokens[from]!
      continue
    }
    if (to > begin) {
      count(tokens[to - 1]!, left, -1)
      count(tokens[to - 1]!, merged, 1)
    }
    tokens[to] = merged
    from++
    if (from + 1 < end) {
      count(right, tokens[from + 1]!, -1)
      count(merged, tokens[from + 1]!, 1)
    }
  }
  return to - begin
}

export interface TrainedMerges {
  /** By their content, as a `tokenizer.json` has it. */
  readonly vocab: Readonly<Record<string, number>>
  readonly merges: readonly (readonly [string, string])[]
}

/**
 * @param counts Words, and how often each occurs.
 * @param vocabulary Tokens wanted, special ones and bytes included; fewer are made if no pair is left.
 */
export function trainMerges(
  counts: ReadonlyMap<string, number>,
  vocabulary: number,
  special: readonly string[],
  progress: (tokens: number) => void = () => {},
): TrainedMerges {
  const contents = [...special, ...[...byteCharacters].sort()]
  const numbers = new Map(contents.map((content, number) => [content, number]))
  const byteTokens = byteCharacters.map(character => numbers.get(character)!)
  const words = [...counts.keys()].map(word => Buffer.from(word, 'utf8'))
  const frequency = [...counts.values()]
  const begins = new Float64Array(words.length)
  const lengths = Int32Array.from(words, ({ length }) => length)
  const tokens = new Int32Array(lengths.reduce((sum, length) => sum + length, 0))
  const pairs = new PairCounts()
  let at = 0
  for (const [word, bytes] of words.entries()) {
    begins[word] = at
    for (const byte of bytes) tokens[at++] = byteTokens[byte]!
    for (let i = begins[word] + 1; i < at; i++) pairs.add(tokens[i - 1]!, tokens[i]!, frequency[word]!, word)
  }
  const queue = new Queue()
  pairs.queue(queue)
  const merges = new Map<string, readonly [string, string]>()
  while (numbers.size < vocabulary) {
    const top = queue.pop()
    if (!top) break
    const now = pairs.of(top.left, top.right)
    if (top.count !== now) {
      top.count = now
      queue.push(top)
      continue
    }
    if (now < 1) break
    const parts = [contents[top.left]!, contents[top.right]!] as const
    const content = parts.join('')
    const merged = numbers.get(content) ?? contents.length
    if (merged === contents.length) {
      contents.push(content)
      numbers.set(content, merged)
    }
    // A pair that is merged again, because a later merge has made one of its parts anew, counts as merged then.
    const key = parts.join(' ')
    merges.delete(key)
    merges.set(key, parts)
    for (const word of top.words)
      lengths[word] = mergeWord(tokens, begins[word]!, lengths[word]!, top, merged, (left, right, sign) =>
        pairs.add(left, right, sign * frequency[word]!, word),
      )
    pairs.queue(queue)
    if (merges.size % 256 === 0) progress(numbers.size)
  }
  return { vocab: Object.fromEntries(numbers), merges: [...merges.values()] }
}

/** The `tokenizer.json` of trained merges. */
export function trainedJson({ vocab, merges }: TrainedMerges, special: readonly string[], pattern: string): string {
  return byteLevelJson({
    vocab,
    merges,
    special: Object.fromEntries(special.map(content => [content, vocab[content]!])),
    pattern,
  })
}
