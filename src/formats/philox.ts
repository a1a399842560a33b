/**
 * Philox4x32-10, the counter-based generator of Salmon et al. (2011), as in cuRAND and TransformerEngine.
 *
 * Randomness is addressed: key = the run's seed, counter = (block low, block high, stream, step). One call gives 16 bytes,
 * one for each element of a 16-block: byte j of word i belongs to element 4i+j. Reference, C++ and CUDA take the same
 * decisions whatever the number of threads. Source: docs/numerics.md, "Stochastic rounding".
 */

/** The upper 32 bits of a product of 32-bit numbers, from products of their halves: each sum stays below 2^32. */
const high = (a: number, b: number): number => {
  const a0 = a & 0xffff
  const a1 = a >>> 16
  const b0 = b & 0xffff
  const b1 = b >>> 16
  const middle = (Math.imul(a1, b0) + (Math.imul(a0, b0) >>> 16)) | 0
  const cross = (Math.imul(a0, b1) + (middle & 0xffff)) | 0
  return (Math.imul(a1, b1) + (middle >>> 16) + (cross >>> 16)) | 0
}

/**
 * Ten rounds for each four words of `out`: the first block is that of `counter`, the others follow it.
 * @param counter four words
 * @param key two words
 * @param out a multiple of four words
 */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): Uint32Array {
  let blockLow = counter[0]! | 0
  let blockHigh = counter[1]! | 0
  const stream = counter[2]! | 0
  const step = counter[3]! | 0
  const keyLow = key[0]! | 0
  const keyHigh = key[1]! | 0
  for (let i = 0; i < out.length; i += 4) {
    let c0 = blockLow
    let c1 = blockHigh
    let c2 = stream
    let c3 = step
    let k0 = keyLow
    let k1 = keyHigh
    for (let round = 0; round < 10; round++) {
      const h0 = high(0xd2511f53, c0)
      const l0 = Math.imul(0xd2511f53, c0)
      const h1 = high(0xcd9e8d57, c2)
      const l1 = Math.imul(0xcd9e8d57, c2)
      c0 = h1 ^ c1 ^ k0
      c1 = l1
      c2 = h0 ^ c3 ^ k1
      c3 = l0
      k0 = (k0 + 0x9e3779b9) | 0
      k1 = (k1 + 0xbb67ae85) | 0
    }
    out[i] = c0
    out[i + 1] = c1
    out[i + 2] = c2
    out[i + 3] = c3
    blockLow = (blockLow + 1) | 0
    if (blockLow === 0) blockHigh = (blockHigh + 1) | 0
  }
  return out
}

/** Box and Muller: radius and angle of a pair of standard normals, from 24 bits of a word each. */
const radiusOf = (word: number): number => Math.sqrt(-2 * Math.log(((word >>> 8) + 1) / 2 ** 24))
const angleOf = (word: number): number => 2 * Math.PI * ((word >>> 8) / 2 ** 24)

/** Words that are drawn at once where many are wanted. */
const manyWords = 2 ** 12

/** A sequential reader of one stream, for initial weights and generated text. Every number takes one word; `below` may take more. */
export class Stream {
  readonly #key: [number, number]
  readonly #counter: number[]
  readonly #words = new Uint32Array(4)
  #used = 4
  #spare: number | undefined

  /**
   * @param seed a whole number below 2^53
   * @param stream 32-bit, as `step`
   * @param block where to begin, in blocks of four words
   */
  constructor(seed: number, stream: number, step = 0, block = 0) {
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    this.#counter = [block >>> 0, Math.floor(block / 2 ** 32), stream, step]
  }

  /** 32 random bits. */
  word(): number {
    if (this.#used === 4) {
      this.#blocks(this.#words)
      this.#used = 0
    }
    return this.#words[this.#used++]!
  }

  #blocks(out: Uint32Array): void {
    philox(this.#counter, this.#key, out)
    const next = this.#counter[0]! + out.length / 4
    this.#counter[0] = next >>> 0
    if (next >= 2 ** 32) this.#counter[1]!++
  }

  /** What as many calls of `word` would give. */
  words(into: Uint32Array): void {
    let i = 0
    while (i < into.length && this.#used < 4) into[i++] = this.word()
    const whole = into.length - ((into.length - i) % 4)
    this.#blocks(into.subarray(i, whole))
    for (i = whole; i < into.length; i++) into[i] = this.word()
  }

  /** Uniform in [0, 1), 24 bits. */
  uniform(): number {
    return (this.word() >>> 8) / 2 ** 24
  }

  /** Standard normal, by Box and Muller. */
  normal(): number {
    if (this.#spare !== undefined) {
      const spare = this.#spare
      this.#spare = undefined
      return spare
    }
    const radius = radiusOf(this.word())
    const angle = angleOf(this.word())
    this.#spare = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }

  /** Fills `values` with what as many calls of `normal` would give, times `deviation`. */
  normals(values: Float32Array, deviation: number): void {
    let i = 0
    if (values.length > 0 && this.#spare !== undefined) values[i++] = this.normal() * deviation
    const words = new Uint32Array(Math.min(manyWords, values.length - i))
    while (values.length - i > 1) {
      const some = words.subarray(0, Math.min(words.length, values.length - i) & ~1)
      this.words(some)
      for (let j = 0; j < some.length; j += 2) {
        const radius = radiusOf(some[j]!)
        const angle = angleOf(some[j + 1]!)
        values[i++] = radius * Math.cos(angle) * deviation
        values[i++] = radius * Math.sin(angle) * deviation
      }
    }
    if (i < values.length) values[i] = this.normal() * deviation
  }

  /** Uniform in 0 .. n-1, without bias. */
  below(n: number): number {
    const limit = Math.floor(2 ** 32 / n) * n
    let word = this.word()
    while (word >= limit) word = this.word()
    return word % n
  }
}
