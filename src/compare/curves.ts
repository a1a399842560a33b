/**
 * Loss curves of two runs and what lies between them.
 *
 *   smoothed loss         S[i] = mean of the last w losses up to i (fewer at the start)
 *   relative difference   (baseline - experiment) / baseline of smoothed losses: negative where the experiment is worse
 *                         (paper, section 3; docs/numerics.md, "Training hyper-parameters and ablations")
 *
 * Index i of a curve is step i + 1.
 */

/** The share of a run's steps over which losses are averaged. */
export const smoothedShare = 0.05

export const windowOf = (steps: number): number => Math.max(1, Math.round(smoothedShare * steps))

/** Mean of the last `window` values up to each. */
export function smooth(values: readonly number[], window: number): number[] {
  let sum = 0
  return values.map((value, i) => {
    sum += value - (i >= window ? values[i - window]! : 0)
    return sum / Math.min(i + 1, window)
  })
}

export const relativeDifference = (baseline: number, experiment: number): number => (baseline - experiment) / baseline

/** Of each step that both curves have. */
export const relativeDifferences = (baseline: readonly number[], experiment: readonly number[]): number[] =>
  experiment.slice(0, baseline.length).map((loss, i) => relativeDifference(baseline[i]!, loss))

/**
 * The step, with a fraction, at which a falling curve comes down to `level`. A noisy curve passes it more than once: the middle between the first
 * and the last time. Undefined if the curve begins below the level or ends above it.
 */
export function stepReaching(curve: readonly number[], level: number): number | undefined {
  const down = (i: number) => curve[i - 1]! > level && curve[i]! <= level
  const at = (i: number) => i + (curve[i - 1]! - level) / (curve[i - 1]! - curve[i]!)
  const crossings = curve.flatMap((_, i) => (i > 0 && down(i) ? [at(i)] : []))
  if (crossings.length === 0 || curve.at(-1)! > level) return undefined
  return (crossings[0]! + crossings.at(-1)!) / 2
}
