import type { Source } from './corpus.ts'
import { type MixtureOptions, mixtureOf } from './mixture.ts'
import { countSourceWindows } from './sampler.ts'

/** What a run reads of a source. */
export interface SourcePlan {
  readonly name: string
  /** There are in it. */
  readonly tokens: number
  /** Trained on, in each phase. */
  readonly phases: readonly number[]
  readonly trained: number
  /** How often each of its sequences is seen. */
  readonly epochs: number
}

export interface DataPlan {
  /** Shares of the steps. */
  readonly phases: readonly number[]
  readonly sources: readonly SourcePlan[]
  readonly heldOut: number
}

/**
 * How many tokens of each source each phase of a run takes.
 * @throws CorpusError if a source is too short for one sequence.
 */
export function planData(
  data: MixtureOptions & { readonly sequence: number; readonly batch: number },
  steps: number,
  { sources, validation }: { readonly sources: readonly Source[]; readonly validation: { readonly length: number } },
): DataPlan {
  const { sequence, batch, phases = [{ share: 1 }] } = data
  const windows = countSourceWindows(sources, data)
  const counts = mixtureOf(data, steps, batch).counts()
  return {
    phases: phases.map(({ share }) => share),
    sources: sources.map(({ name, stream }, source) => {
      const sequences = counts.map(phase => phase[source]!)
      const all = sequences.reduce((sum, count) => sum + count, 0)
      return {
        name,
        tokens: stream.length,
        phases: sequences.map(count => count * sequence),
        trained: all * sequence,
        epochs: all / windows[source]!,
      }
    }),
    heldOut: validation.length,
  }
}
