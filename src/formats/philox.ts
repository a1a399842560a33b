/**
 * Philox4x32-10, the counter-based generator of Salmon et al. (2011), as in cuRAND and TransformerEngine.
 *
 * Randomness is addressed: key = the run's seed, counter = (block low, block high, stream, step). One call gives 16 bytes,
 * one for each element of a 16-block: byte j of word i belongs to element 4i+j. Reference, C++ and CUDA take the same
 * decisions whatever the number of threads. Source: docs/numerics.md, "Stochastic rounding".
 */

const high = (a: number, b: number): number => {
  const a0 = a & 0xffff
  const a1 = a >>> 16
  const b0 = b & 0xffff
  const b1 = b >>> 16
  const middle = a1 * b0 + ((a0 * b0) >>> 16)
  const cross = a0 * b1 + (middle & 0xffff)
  return (a1 * b1 + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0
}

/** Ten rounds; `counter` is four words, `key` two. Writes four words to `out`. */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): Uint32Array {
  let c0 = counter[0]! >>> 0
  let c1 = counter[1]! >>> 0
  let c2 = counter[2]! >>> 0
  let c3 = counter[3]! >>> 0
  let k0 = key[0]! >>> 0
  let k1 = key[1]! >>> 0
  for (let round = 0; round < 10; round++) {
    const h0 = high(0xd2511f53, c0)
    const l0 = Math.imul(0xd2511f53, c0)
    const h1 = high(0xcd9e8d57, c2)
    const l1 = Math.imul(0xcd9e8d57, c2)
    c0 = (h1 ^ c1 ^ k0) >>> 0
    c1 = l1 >>> 0
    c2 = (h0 ^ c3 ^ k1) >>> 0
    c3 = l0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
  return out
}

/** A sequential reader of one stream, for data order and initial weights. */
export class Stream {
  readonly #key: [number, number]
  readonly #counter: number[]
  readonly #words = new Uint32Array(4)
  #used = 4
  #spare: number | undefined

  /** `seed` is a whole number below 2^53; `stream` and `step` are 32-bit. */
  constructor(seed: number, stream: number, step = 0) {
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    this.#counter = [0, 0, stream, step]
  }

  /** 32 random bits. */
  word(): number {
    if (this.#used === 4) {
      philox(this.#counter, this.#key, this.#words)
      this.#used = 0
      if (++this.#counter[0]! === 2 ** 32) {
        this.#counter[0] = 0
        this.#counter[1]!++
      }
    }
    return this.#words[this.#used++]!
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
    const radius = Math.sqrt(-2 * Math.log(((this.word() >>> 8) + 1) / 2 ** 24))
    const angle = 2 * Math.PI * this.uniform()
    this.#spare = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }

  /** Uniform in 0 .. n-1, without bias. */
  below(n: number): number {
    const limit = Math.floor(2 ** 32 / n) * n
    let word = this.word()
    while (word >= limit) word = this.word()
    return word % n
  }
}
