/**
 * The learning rate of warm-up, stable, decay (WSD; paper, appendix A.1): a linear rise over the first `warmup` share of the steps,
 * a constant middle, and a fall to `final` times the peak over the last `decay` share.
 */

export interface Schedule {
  /** Shares of all steps, 0 to 1. */
  readonly warmup: number
  readonly decay: number
  /** Last learning rate as a share of the peak. */
  readonly final: number
  readonly shape: 'linear' | 'cosine'
}

/** How far from the peak (1) to the end (0), given how much of the decay has passed (0 to 1). */
const shapes: Readonly<Record<Schedule['shape'], (passed: number) => number>> = {
  linear: passed => 1 - passed,
  cosine: passed => (1 + Math.cos(Math.PI * passed)) / 2,
}

/** Learning rate of `step` (0-based) of `steps`, for a peak of `lr`. The first step already moves, the last reaches the end. */
export function learningRate(step: number, steps: number, lr: number, schedule: Schedule): number {
  const warmup = Math.round(schedule.warmup * steps)
  if (step < warmup) return (lr * (step + 1)) / warmup
  const decay = Math.round(schedule.decay * steps)
  const start = steps - decay
  if (step < start) return lr
  const rest = shapes[schedule.shape]((step - start + 1) / decay)
  return lr * (schedule.final + (1 - schedule.final) * rest)
}
