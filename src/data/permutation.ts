import { philox } from '../formats/philox.ts'

/**
 * A permutation of 0 .. n-1 that needs no table: a balanced Feistel network over the smallest even number of bits that holds n,
 *
 *   (left, right) <- (right, left xor philox(right, round))      six rounds,
 *
 * repeated while the result is n or more. The network is a bijection of its whole domain, so following its cycle until it
 * comes back below n is one of 0 .. n-1 (Black and Rogaway, 2002). The domain is at most 4n: fewer than four turns on average.
 */

const rounds = 6

/** A word of the counter that no group of elements has, so that data order shares no randomness with rounding. */
const dataOrder = 0xfffffffe

const key = new Uint32Array(2)
const counter = new Uint32Array(4)
const words = new Uint32Array(4)

/** Where `index` goes in the permutation of 0 .. size-1 number `epoch` of `seed`; each of several sources has its own. */
export function permuted(index: number, size: number, seed: number, epoch: number, source = 0): number {
  if (index < 0 || index >= size) throw new RangeError(`index ${index} is outside 0 .. ${size - 1}`)
  let bits = 1
  while (4 ** bits < size) bits++
  const half = 2 ** bits
  key[0] = seed >>> 0
  key[1] = Math.floor(seed / 2 ** 32)
  counter[1] = dataOrder - source
  counter[3] = epoch
  let value = index
  do {
    let left = Math.floor(value / half)
    let right = value % half
    for (let round = 0; round < rounds; round++) {
      counter[0] = right
      counter[2] = round
      const mixed = (left ^ (philox(counter, key, words)[0]! & (half - 1))) >>> 0
      left = right
      right = mixed
    }
    value = left * half + right
  } while (value >= size)
  return value
}
