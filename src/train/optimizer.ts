import type { RunConfig } from '../config/schema.ts'
import { adamw, adamwFlags, uncopied } from '../kernels/adamw/adamw.ts'
import { gradientStatistics } from '../kernels/gradient_statistics/gradient_statistics.ts'
import { control, optimizerControl } from '../kernels/optimizer_control/optimizer_control.ts'
import type { Parameters } from '../model/parameters.ts'
import type { WorkingCopies } from '../model/working_copies.ts'
import type { DType } from '../tensor/dtype.ts'
import { persistentTensor, sizeOf, type Tensor } from '../tensor/tensor.ts'

/** What a step found in the gradients, read back after the update. */
export interface GradientReport {
  /** Euclidean norm of the whole gradient before clipping. */
  readonly norm: number
  /** False where a value of the gradient or its norm was not finite. */
  readonly finite: boolean
  /** Whether weights moved: not where anything is wrong with the gradient, or an operand was not finite. */
  readonly updated: boolean
  /** Parameters with a gradient that is not finite, and those whose gradient is zero throughout. */
  readonly nonFinite: readonly string[]
  readonly zero: readonly string[]
  /** The parameter whose gradient has the largest Euclidean norm. */
  readonly largest: { readonly name: string; readonly norm: number }
}

/** AdamW over the flat buffers of a model; moments in FP32. What changes from step to step is read from device memory. */
export class Optimizer {
  readonly moments: { readonly first: Tensor; readonly second: Tensor }
  readonly #parameters: Parameters
  readonly #config: RunConfig['optimizer']
  readonly #flags: Tensor
  readonly #copies: { readonly rounded: Tensor; readonly places: Tensor } | undefined
  readonly #ends: Tensor
  readonly #statistics: Tensor
  readonly #schedule: Tensor
  readonly #control: Tensor

  /** @param copies of weights, which an update brings up to date. */
  constructor(parameters: Parameters, config: RunConfig['optimizer'], copies?: WorkingCopies) {
    const { backend, size } = parameters.value
    const persistent = (dtype: DType, shape: readonly number[]): Tensor => persistentTensor(backend, dtype, shape)
    this.#parameters = parameters
    this.#config = config
    this.moments = { first: persistent('f32', [size]), second: persistent('f32', [size]) }
    const { all } = parameters
    const bounds = [...all.slice(1).map(({ offset }) => offset), size]
    const flags = new Uint8Array(size / 16)
    for (const [i, { decay, overwritten, offset }] of all.entries()) {
      const own = (decay ? adamwFlags.decays : 0) | (overwritten ? 0 : adamwFlags.cleared)
      flags.fill(own, offset / 16, bounds[i]! / 16)
    }
    this.#flags = persistent('u8', [size / 16]).write(flags)
    if (copies) {
      const places = new Uint32Array(size / 16).fill(uncopied)
      for (const { from, to, groups } of copies.spans) for (let i = 0; i < groups; i++) places[from + i] = to + i
      this.#copies = { rounded: copies.rounded, places: persistent('u32', [size / 16]).write(places) }
    }
    this.#ends = persistent('u32', [all.length]).write(Uint32Array.from(bounds, end => end / 16))
    this.#statistics = persistent('f32', [all.length, 4])
    this.#schedule = persistent('f32', [2])
    this.#control = persistent('f32', [8])
  }

  /** Sets what the next update reads: the learning rate and the number of `step` (from 0). */
  schedule(step: number, lr: number): void {
    this.#schedule.write(Float32Array.of(lr, step + 1))
  }

  /**
   * One update; sets the gradients to zero that micro-batches only add to. Nothing moves if a gradient is not finite or zero throughout.
   * @param operands f32[n, 2], amaxes of what was quantised: nothing moves if a value was not finite.
   */
  update(operands?: Tensor): void {
    const { value, gradient } = this.#parameters
    const { backend } = value
    const { beta1, beta2, eps, weight_decay, clip } = this.#config
    backend.run(gradientStatistics, { statistics: this.#statistics, g: gradient, ends: this.#ends })
    backend.run(optimizerControl, {
      control: this.#control,
      statistics: this.#statistics,
      schedule: this.#schedule,
      operands,
      beta1,
      beta2,
      clip,
    })
    backend.run(adamw, {
      w: value,
      m: this.moments.first,
      v: this.moments.second,
      g: gradient,
      flags: this.#flags,
      ...this.#copies,
      control: this.#control,
      beta1,
      beta2,
      eps,
      weight_decay,
    })
  }

  /** What the last update found; the function that it returns waits for it. */
  report(): () => GradientReport {
    const pending = [this.#control.readLater(), this.#statistics.readLater()] as const
    return () => {
      const [values, statistics] = pending.map(read => read() as Float32Array) as [Float32Array, Float32Array]
      const named = (test: (offset: number) => boolean) =>
        this.#parameters.all.filter((_, i) => test(4 * i)).map(({ name }) => name)
      const norm = values[control.gradientNorm]!
      const infinite = values[control.nonFiniteValues]! > 0
      return {
        norm,
        finite: !infinite && Number.isFinite(norm),
        updated: values[control.update] === 1,
        nonFinite: infinite ? named(offset => statistics[offset + 2]! > 0) : [],
        zero: values[control.zeroSegments]! > 0 ? named(offset => statistics[offset + 3] === 0) : [],
        largest: this.#largest(statistics),
      }
    }
  }

  /** Of each parameter at the last step: the norm of its gradient, and the share of the gradient's elements that were exactly zero. */
  gradients(): Map<string, { readonly norm: number; readonly zeros: number }> {
    const statistics = this.#statistics.floats()
    return new Map(
      this.#parameters.all.map(({ name, shape }, i) => [
        name,
        { norm: Math.sqrt(statistics[4 * i]!), zeros: 1 - statistics[4 * i + 3]! / sizeOf(shape) },
      ]),
    )
  }

  #largest(statistics: Float32Array): GradientReport['largest'] {
    const { all } = this.#parameters
    let most = 0
    for (const i of all.keys()) if (statistics[4 * i]! > statistics[4 * most]!) most = i
    return { name: all[most]!.name, norm: Math.sqrt(statistics[4 * most]!) }
  }

  /** Parameters with a weight that is not finite. What `report` reads is lost. */
  nonFiniteWeights(): string[] {
    const { value, all } = this.#parameters
    value.backend.run(gradientStatistics, { statistics: this.#statistics, g: value, ends: this.#ends })
    const statistics = this.#statistics.floats()
    return all.filter((_, i) => statistics[4 * i + 2]! > 0).map(({ name }) => name)
  }
}
