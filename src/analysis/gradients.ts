/**
 * How far gradients of quantised products are from those of products that are not, on the same weights and tokens.
 *
 * g is the gradient without quantisation, g_1 .. g_n those under n draws of the random decisions, d_k = g_k - g, m the mean of the d_k. With
 *
 *   V = sum |d_k - m|^2 / (n - 1)          the variance that the draws add
 *   B = sum |d_k|^2 / n - V                 an unbiased estimate of the squared bias |E d|^2, since E |m|^2 = |E d|^2 + V / n
 *
 *   cosine     mean of g_k . g / (|g_k| |g|)
 *   bias       sqrt(max(B, 0)) / |g|
 *   variance   V / |g|^2
 *   error      sqrt(sum |d_k|^2 / n) / |g|, so that error^2 = bias^2 + variance
 *
 * over all elements of one layer's weight, or of all parameters together. A recipe without random decisions has one draw and V = 0.
 */
export interface GradientError {
  readonly cosine: number
  readonly bias: number
  readonly variance: number
  readonly error: number
}

/** Sums over the draws for one range of elements. */
interface Sums {
  /** Of squares of the reference, of the differences, and of their sum over the draws; and of the cosines. */
  power: number
  noise: number
  drift: number
  cosine: number
}

const emptySums = (): Sums => ({ power: 0, noise: 0, drift: 0, cosine: 0 })

function finish({ power, noise, drift, cosine }: Sums, draws: number): GradientError {
  const mean = noise / draws
  const variance = draws > 1 ? Math.max(0, (noise - drift / draws) / (draws - 1)) : 0
  return {
    cosine: cosine / draws,
    bias: Math.sqrt(Math.max(0, mean - variance) / power),
    variance: variance / power,
    error: Math.sqrt(mean / power),
  }
}

export interface Range {
  readonly start: number
  readonly end: number
}

/**
 * Compares draws of a gradient with the gradient `reference`, over each of some ranges of elements and over all of them together.
 * @param draws made one after another; each may be the same array, filled anew.
 */
export function gradientErrors(
  reference: Float32Array,
  ranges: readonly Range[],
  draws: Iterable<Float32Array>,
): { whole: GradientError; ranges: GradientError[] } {
  const differences = new Float64Array(reference.length)
  const whole = emptySums()
  const sums = ranges.map(emptySums)
  let count = 0
  for (const drawn of draws) {
    count++
    const all = { dot: 0, own: 0, power: 0 }
    for (const [i, { start, end }] of ranges.entries()) {
      let [noise, dot, own, power] = [0, 0, 0, 0]
      for (let j = start; j < end; j++) {
        const [g, q] = [reference[j]!, drawn[j]!]
        const difference = q - g
        differences[j] = differences[j]! + difference
        noise += difference * difference
        dot += q * g
        own += q * q
        power += g * g
      }
      const sum = sums[i]!
      sum.power = power
      sum.noise += noise
      sum.cosine += dot / Math.sqrt(own * power)
      whole.noise += noise
      all.dot += dot
      all.own += own
      all.power += power
    }
    whole.power = all.power
    whole.cosine += all.dot / Math.sqrt(all.own * all.power)
  }
  for (const [i, { start, end }] of ranges.entries()) {
    let drift = 0
    for (let j = start; j < end; j++) drift += differences[j]! ** 2
    sums[i]!.drift = drift
    whole.drift += drift
  }
  return { whole: finish(whole, count), ranges: sums.map(sum => finish(sum, count)) }
}
