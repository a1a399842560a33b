/**
 * Which source each sequence of a run is drawn from. Weights are taken as exact proportions: with whole numbers n_s in the ratio of the weights, of
 * every P = sum n_s sequences exactly n_s come from source s. Their order is that of the largest deficit: sequence i goes to the source for which
 * n_s (i + 1) / P - (taken so far) is largest, the first of several. It repeats every P sequences, so what sequence g is drawn from, and how many
 * came from that source before, follow from g alone: there is no state to save, and any number of ranks agrees.
 *
 * A run has phases (paper, appendix A.1), each with weights of its own; a source goes on in the next phase where it stopped in the last.
 */

/** Weights are told apart down to a millionth of their sum. */
const longestPeriod = 2 ** 20

const commonDivisor = (a: number, b: number): number => (b === 0 ? a : commonDivisor(b, a % b))

/** Whole numbers in the ratio of the weights; where that ratio needs more than `longestPeriod`, the nearest by largest remainder. */
export function proportions(weights: readonly number[]): number[] {
  for (let scale = 1; scale <= 1e9; scale *= 10) {
    const scaled = weights.map(weight => Math.round(weight * scale))
    if (!scaled.every((value, i) => Math.abs(value - weights[i]! * scale) <= 1e-9 * value)) continue
    const divisor = scaled.reduce(commonDivisor)
    const counts = scaled.map(value => value / divisor)
    if (counts.reduce((sum, count) => sum + count) <= longestPeriod) return counts
    break
  }
  const total = weights.reduce((sum, weight) => sum + weight)
  const exact = weights.map(weight => (weight / total) * longestPeriod)
  const counts = exact.map(Math.floor)
  const missing = longestPeriod - counts.reduce((sum, count) => sum + count)
  const byRemainder = exact.map((_, i) => i).sort((a, b) => exact[b]! - counts[b]! - (exact[a]! - counts[a]!) || a - b)
  for (const i of byRemainder.slice(0, missing)) counts[i]!++
  return counts
}

/** Sequences between two records of how many came from each source. */
const stride = 64

/** One period of the order of largest deficit. */
class Interleaving {
  readonly #counts: readonly number[]
  readonly #period: number
  readonly #sources: Uint16Array
  /** At every `stride`: sequences of each source before it. */
  readonly #before: Uint32Array

  constructor(weights: readonly number[]) {
    const counts = proportions(weights)
    const period = counts.reduce((sum, count) => sum + count)
    const taken = new Uint32Array(counts.length)
    this.#counts = counts
    this.#period = period
    this.#sources = new Uint16Array(period)
    this.#before = new Uint32Array(Math.ceil(period / stride) * counts.length)
    for (let i = 0; i < period; i++) {
      if (i % stride === 0) this.#before.set(taken, (i / stride) * counts.length)
      let best = 0
      let largest = Number.NEGATIVE_INFINITY
      for (let source = 0; source < counts.length; source++) {
        const deficit = counts[source]! * (i + 1) - taken[source]! * period
        if (counts[source]! > taken[source]! && deficit > largest) {
          largest = deficit
          best = source
        }
      }
      this.#sources[i] = best
      taken[best]!++
    }
  }

  sourceAt(index: number): number {
    return this.#sources[index % this.#period]!
  }

  /** Sequences of a source among the first `index`. */
  countBefore(index: number, source: number): number {
    const periods = Math.floor(index / this.#period)
    const rest = index - periods * this.#period
    const record = Math.floor(rest / stride)
    let count = periods * this.#counts[source]! + this.#before[record * this.#counts.length + source]!
    for (let i = record * stride; i < rest; i++) if (this.#sources[i] === source) count++
    return count
  }
}

/** A part of a run with weights of its own. */
export interface Phase {
  /** Sequences of the run before its end. */
  readonly until: number
  /** Of each source; not all 0. */
  readonly weights: readonly number[]
}

interface Stage {
  readonly from: number
  readonly until: number
  readonly order: Interleaving
  /** Sequences that each source gave to the phases before. */
  readonly before: readonly number[]
}

/** Phases by their shares of the steps, each ending after a whole step. */
export function phasesOf(
  shares: readonly { readonly share: number; readonly weights: readonly number[] }[],
  steps: number,
  batch: number,
): Phase[] {
  let sum = 0
  return shares.map(({ share, weights }, i) => {
    sum += share
    return { until: (i === shares.length - 1 ? steps : Math.round(sum * steps)) * batch, weights }
  })
}

export class Mixture {
  readonly #stages: readonly Stage[]

  /** The last phase goes on if more sequences are asked for than it holds. */
  constructor(phases: readonly Phase[]) {
    const stages: Stage[] = []
    let before = phases[0]!.weights.map(() => 0)
    let from = 0
    for (const { until, weights } of phases) {
      const order = new Interleaving(weights)
      stages.push({ from, until, order, before })
      before = before.map((count, source) => count + order.countBefore(until - from, source))
      from = until
    }
    this.#stages = stages
  }

  #stageOf(sequence: number): Stage {
    return this.#stages.find(({ until }) => sequence < until) ?? this.#stages.at(-1)!
  }

  /** Where sequence number `sequence` of the run comes from, and how many came from there before it. */
  at(sequence: number): { source: number; index: number } {
    const { from, order, before } = this.#stageOf(sequence)
    const source = order.sourceAt(sequence - from)
    return { source, index: before[source]! + order.countBefore(sequence - from, source) }
  }

  /** Sequences that each source gives to each phase. */
  counts(): number[][] {
    return this.#stages.map(({ from, until, order, before }) =>
      before.map((_, source) => order.countBefore(until - from, source)),
    )
  }
}

/** What of a config's `data` says how sources are mixed. */
export interface MixtureOptions {
  readonly blend?: readonly { readonly weight: number }[] | undefined
  readonly phases?: readonly { readonly share: number; readonly weights: readonly number[] }[] | undefined
}

/** @param batch Sequences in a step. */
export function mixtureOf({ blend, phases }: MixtureOptions, steps: number, batch: number): Mixture {
  const weights = blend?.map(({ weight }) => weight) ?? [1]
  return new Mixture(phasesOf(phases ?? [{ share: 1, weights }], steps, batch))
}
