/**
 * Merging of byte pairs. A word begins as its bytes; as long as two neighbours have a merge, those of the lowest rank are joined, the leftmost of
 * several. A heap holds what could be joined next, so a word of n bytes takes n log n steps.
 */

/** Merges by their pair of tokens: an open-addressed table of (left, right, rank, merged). */
export class MergeTable {
  #slots: Int32Array
  #mask: number
  #count = 0

  constructor(expected: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(16, expected * 2)))
    this.#slots = new Int32Array(size * 4).fill(-1)
    this.#mask = size - 1
  }

  get size(): number {
    return this.#count
  }

  /** Keeps the merge of a pair that is already there. */
  add(left: number, right: number, rank: number, merged: number): void {
    if (this.#count * 3 > this.#mask * 2) this.#grow()
    const at = this.find(left, right)
    if (this.#slots[at + 3] !== -1) return
    this.#slots[at] = left
    this.#slots[at + 1] = right
    this.#slots[at + 2] = rank
    this.#slots[at + 3] = merged
    this.#count++
  }

  #grow(): void {
    const old = this.#slots
    this.#slots = new Int32Array(old.length * 2).fill(-1)
    this.#mask = this.#mask * 2 + 1
    this.#count = 0
    for (let at = 0; at < old.length; at += 4)
      if (old[at + 3] !== -1) this.add(old[at]!, old[at + 1]!, old[at + 2]!, old[at + 3]!)
  }

  /** Where a pair is, or the empty place where it would be. */
  find(left: number, right: number): number {
    const slots = this.#slots
    const hash = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b)
    for (let slot = (hash ^ (hash >>> 15)) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const at = slot * 4
      if (slots[at + 3] === -1 || (slots[at] === left && slots[at + 1] === right)) return at
    }
  }

  /** -1 where `find` came to an empty place. */
  mergedAt(at: number): number {
    return this.#slots[at + 3]!
  }

  rankAt(at: number): number {
    return this.#slots[at + 2]!
  }
}

/** Positions are below 2^26 in a word, ranks below 2^27: together exact in a double. */
const positions = 2 ** 26

/** Merges words by one table. */
export class Merger {
  readonly #table: MergeTable
  #tokens = new Int32Array(64)
  #next = new Int32Array(64)
  #previous = new Int32Array(64)
  /** A binary heap of rank * positions + position. */
  #heap = new Float64Array(128)
  #heapLength = 0

  constructor(table: MergeTable) {
    this.#table = table
  }

  /** Room for a word of so many bytes; its tokens are written here before `merge`. */
  room(length: number): Int32Array {
    if (length >= positions) throw new RangeError(`a word of ${length} bytes, wanted fewer than ${positions}`)
    if (length > this.#tokens.length) {
      const size = 2 ** Math.ceil(Math.log2(length))
      this.#tokens = new Int32Array(size)
      this.#next = new Int32Array(size)
      this.#previous = new Int32Array(size)
    }
    return this.#tokens
  }

  /** Merges the first `length` tokens of `room` in place; returns how many are left. */
  merge(length: number): number {
    const [tokens, next, previous] = [this.#tokens, this.#next, this.#previous]
    const table = this.#table
    this.#heapLength = 0
    for (let i = 0; i < length; i++) {
      next[i] = i + 1
      previous[i] = i - 1
      if (i + 1 < length) this.#consider(i, i + 1)
    }
    while (this.#heapLength > 0) {
      const key = this.#pop()
      const rank = Math.floor(key / positions)
      const left = key - rank * positions
      const right = next[left]!
      if (tokens[left] === -1 || right >= length) continue
      const at = table.find(tokens[left]!, tokens[right]!)
      if (table.mergedAt(at) === -1 || table.rankAt(at) !== rank) continue
      tokens[left] = table.mergedAt(at)
      tokens[right] = -1
      const after = next[right]!
      next[left] = after
      if (after < length) {
        previous[after] = left
        this.#consider(left, after)
      }
      if (previous[left]! >= 0) this.#consider(previous[left]!, left)
    }
    let count = 0
    for (let i = 0; i < length; i++) if (tokens[i] !== -1) tokens[count++] = tokens[i]!
    return count
  }

  #consider(left: number, right: number): void {
    const at = this.#table.find(this.#tokens[left]!, this.#tokens[right]!)
    if (this.#table.mergedAt(at) !== -1) this.#push(this.#table.rankAt(at) * positions + left)
  }

  #push(key: number): void {
    if (this.#heapLength === this.#heap.length) {
      const larger = new Float64Array(this.#heap.length * 2)
      larger.set(this.#heap)
      this.#heap = larger
    }
    const heap = this.#heap
    let at = this.#heapLength++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (heap[parent]! <= key) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = key
  }

  #pop(): number {
    const heap = this.#heap
    const top = heap[0]!
    const key = heap[--this.#heapLength]!
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= this.#heapLength) break
      if (child + 1 < this.#heapLength && heap[child + 1]! < heap[child]!) child++
      if (heap[child]! >= key) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = key
    return top
  }
}
