import type { Backend } from '../tensor/backend.ts'
import { Tensor } from '../tensor/tensor.ts'
import { renderTable } from './table.ts'

interface Total {
  calls: number
  seconds: number
  flops: number
  bytes: number
}

function totalIn(totals: Map<string, Total>, name: string): Total {
  const total = totals.get(name) ?? { calls: 0, seconds: 0, flops: 0, bytes: 0 }
  totals.set(name, total)
  return total
}

/** Adds up what each kernel of a backend takes in steps, for `train --profile`. The first steps, which fill caches, are left out. */
export class Profile {
  readonly #totals = new Map<string, Total>()
  /** Since the last step. */
  readonly #recent = new Map<string, Total>()
  readonly #skip: number
  #steps = 0
  #stepSeconds = 0

  /** Starts watching. @param skip steps not counted at the start. */
  constructor(backend: Backend, skip = 2) {
    this.#skip = skip
    backend.profiler = (kernel, seconds, dims, given) => {
      const total = totalIn(this.#recent, kernel.name)
      total.calls++
      total.seconds += seconds
      total.flops += kernel.flops?.(dims, given as Record<string, number>) ?? 0
      for (const [name, value] of Object.entries(given)) {
        const arg = kernel.args[name]
        if (value instanceof Tensor && arg?.kind === 'tensor')
          total.bytes += value.bytes * (arg.access === 'inout' ? 2 : 1)
      }
    }
  }

  /** To be called after each step with the time it took. */
  step(seconds: number): void {
    if (this.#steps++ >= this.#skip) {
      this.#stepSeconds += seconds
      for (const [name, { calls, seconds, flops, bytes }] of this.#recent) {
        const total = totalIn(this.#totals, name)
        total.calls += calls
        total.seconds += seconds
        total.flops += flops
        total.bytes += bytes
      }
    }
    this.#recent.clear()
  }

  /** Forgets what was computed since the last step: a validation is no part of one. */
  leaveOut(): void {
    this.#recent.clear()
  }

  /** Kernels by their share of the steps' time; what is left is JavaScript and memory copies. */
  toString(): string {
    const steps = this.#steps - this.#skip
    if (steps <= 0) return `no profile: wanted more than ${this.#skip} steps, found ${this.#steps}`
    const percent = (seconds: number) => `${((100 * seconds) / this.#stepSeconds).toFixed(1)} %`
    const perStep = (seconds: number) => `${((1000 * seconds) / steps).toFixed(2)} ms`
    const rows = [...this.#totals]
      .sort(([, a], [, b]) => b.seconds - a.seconds)
      .map(([name, { calls, seconds, flops, bytes }]) => [
        name,
        percent(seconds),
        perStep(seconds),
        (calls / steps).toFixed(calls % steps ? 1 : 0),
        flops > 0 ? `${(flops / seconds / 1e9).toFixed(1)} GFLOP/s` : `${(bytes / seconds / 1e9).toFixed(1)} GB/s`,
      ])
    const inKernels = [...this.#totals.values()].reduce((sum, { seconds }) => sum + seconds, 0)
    const rest = this.#stepSeconds - inKernels
    return renderTable(
      [
        { title: 'kernel' },
        { title: 'share', align: 'right' },
        { title: 'a step', align: 'right' },
        { title: 'calls', align: 'right' },
        { title: 'speed', align: 'right' },
      ],
      [
        ...rows,
        ['outside kernels', percent(rest), perStep(rest)],
        ['step', percent(this.#stepSeconds), perStep(this.#stepSeconds)],
      ],
    )
  }
}
