import { readNumerics } from '../run/read.ts'
import type { ExportedRun } from './weights.ts'

/**
 * The largest magnitude of the input of each linear layer, by its name, from the samples that training records in numerics.jsonl: of those up to the
 * checkpoint, the largest of the second half of the steps, or of all where that half has none. A layer without a sample is absent.
 *
 * Consumers with static scales divide by it. One that is too large costs little, because block scales have the range of E4M3; one that is too
 * small saturates. The first steps are left out because inputs are small there and grow.
 */
export function inputAmax({ directory, step }: Pick<ExportedRun, 'directory' | 'step'>): ReadonlyMap<string, number> {
  const [all, late] = [new Map<string, number>(), new Map<string, number>()]
  for (const { step: at, linear, operand, amax } of readNumerics(directory)) {
    if (operand !== 'xRows' || typeof amax !== 'number' || at > step) continue
    for (const found of at > step / 2 ? [all, late] : [all]) found.set(linear, Math.max(found.get(linear) ?? 0, amax))
  }
  return new Map([...all].map(([linear, amax]) => [linear, late.get(linear) ?? amax]))
}
