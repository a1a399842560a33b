/**
 * What a handful of paired runs say about a difference.
 *
 * Two recipes are trained with the seeds 1..n; runs of one seed share initial weights and batches, so their noise is mostly the same and
 * cancels in d_i, the difference of seed i. With mean d and standard deviation s = sqrt(sum (d_i - d)^2 / (n - 1)),
 *
 *   d +- q s / sqrt(n),    q the quantile of Student's t with n - 1 degrees of freedom,
 *
 * covers the true difference with the stated confidence where the d_i are normally distributed. A difference is resolved if this
 * interval leaves out zero. One seed has no interval: nothing is resolved.
 *
 * The quantile: for whole degrees of freedom v, with a = atan(t / sqrt(v)), P(|T| <= t) is a finite sum (Abramowitz and Stegun,
 * "Handbook of Mathematical Functions", 26.7.3 and 26.7.4)
 *
 *   v odd    2/pi (a + sin a (cos a + 2/3 cos^3 a + ... + 2 4 .. (v-3) / (3 5 .. (v-2)) cos^(v-2) a)),   2 a / pi for v = 1
 *   v even   sin a (1 + 1/2 cos^2 a + ... + 1 3 .. (v-3) / (2 4 .. (v-2)) cos^(v-2) a)
 *
 * which rises from 0 to 1 as a goes from 0 to pi/2, so a is found by halving that interval.
 */

/** P(|T| <= t) of Student's t with `freedom` degrees of freedom, given a = atan(t / sqrt(freedom)). */
function withinAngle(a: number, freedom: number): number {
  const [sin, cos] = [Math.sin(a), Math.cos(a)]
  const odd = freedom % 2 === 1
  let sum = 0
  let term = odd ? cos : 1
  for (let power = odd ? 1 : 0; power <= freedom - 2; power += 2) {
    sum += term
    term *= ((power + 1) / (power + 2)) * cos * cos
  }
  return odd ? (2 / Math.PI) * (a + sin * sum) : sin * sum
}

/**
 * The t with P(|T| <= t) = `confidence`, such as 4.303 for 0.95 and 2 degrees of freedom.
 * @throws RangeError unless `freedom` is a whole number from 1 and 0 < confidence < 1.
 */
export function studentQuantile(confidence: number, freedom: number): number {
  if (!Number.isInteger(freedom) || freedom < 1)
    throw new RangeError(`degrees of freedom: found ${freedom}, wanted a whole number from 1`)
  if (!(confidence > 0 && confidence < 1)) throw new RangeError(`confidence: found ${confidence}, wanted 0 to 1`)
  let [low, high] = [0, Math.PI / 2]
  for (;;) {
    const middle = (low + high) / 2
    if (middle <= low || middle >= high) return Math.sqrt(freedom) * Math.tan(middle)
    if (withinAngle(middle, freedom) < confidence) low = middle
    else high = middle
  }
}

export const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length

/** Standard deviation of a sample, n - 1 in the denominator; 0 for one value. */
export function deviation(values: readonly number[]): number {
  if (values.length < 2) return 0
  const center = mean(values)
  return Math.sqrt(values.reduce((sum, x) => sum + (x - center) ** 2, 0) / (values.length - 1))
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Confidence of every interval. */
export const confidence = 0.95

const quantiles = new Map<number, number>()

/** The quantile of every interval, found once: a curve has an interval at each of its steps. */
function quantileOf(freedom: number): number {
  const quantile = quantiles.get(freedom) ?? studentQuantile(confidence, freedom)
  quantiles.set(freedom, quantile)
  return quantile
}

export interface Estimate {
  readonly mean: number
  /** Standard deviation over the seeds. */
  readonly spread: number
  /** Confidence interval of the mean; null with one value. */
  readonly interval: readonly [low: number, high: number] | null
  /** Whether the interval leaves out zero. */
  readonly resolved: boolean
}

/** Mean and interval of paired differences, one for each seed; undefined without any. */
export function estimate(differences: readonly number[]): Estimate | undefined {
  const n = differences.length
  if (n === 0) return undefined
  const center = mean(differences)
  const spread = deviation(differences)
  if (n === 1) return { mean: center, spread, interval: null, resolved: false }
  const half = (quantileOf(n - 1) * spread) / Math.sqrt(n)
  const interval = [center - half, center + half] as const
  return { mean: center, spread, interval, resolved: interval[0] > 0 || interval[1] < 0 }
}

/**
 * The fewest seeds with which differences of this mean and spread would be resolved: n with q s / sqrt(n) < |d|. Other seeds have another
 * mean: where d is the true difference, so many resolve it in half to three quarters of the cases. Undefined if there is no spread to judge by, or if
 * more than `most` would be needed.
 */
export function seedsToResolve({ mean: center, spread }: Estimate, most = 1000): number | undefined {
  if (spread === 0) return undefined
  for (let n = 2; n <= most; n++) if ((quantileOf(n - 1) * spread) / Math.sqrt(n) < Math.abs(center)) return n
  return undefined
}
