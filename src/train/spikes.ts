/**
 * Detects loss spikes: a loss far above the running mean, in units of the running standard deviation (both exponential averages over
 * about 10 steps, so that a falling loss is not taken for noise). The deviation has a floor of 2 % of the mean, so that a smooth curve does not cry wolf.
 */
export class SpikeDetector {
  readonly #rate = 0.1
  readonly #threshold = 6
  readonly #settling = 20
  #mean = 0
  #variance = 0
  #seen = 0

  /** Deviations above the mean if `loss` is a spike, else undefined. */
  observe(loss: number): number | undefined {
    this.#seen++
    const rate = Math.max(this.#rate, 1 / this.#seen)
    const deviation = Math.max(Math.sqrt(this.#variance), 0.02 * this.#mean)
    const distance = loss - this.#mean
    const spike = this.#seen > this.#settling && distance > this.#threshold * deviation
    this.#mean += rate * distance
    this.#variance += rate * (distance * distance - this.#variance)
    return spike ? distance / deviation : undefined
  }
}
