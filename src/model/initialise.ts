import { Stream } from '../formats/philox.ts'

/**
 * Initial values, as Megatron's pretraining (docs/numerics.md, "Initialisation"). Each parameter reads its own random stream,
 * addressed by its name: the same weights whatever the recipe, the backend or the other parameters.
 */

/** Fills `values` from `random`. */
export type Initialiser = (random: Stream, values: Float32Array) => void

export const ones: Initialiser = (_, values) => values.fill(1)

export const normal =
  (deviation: number): Initialiser =>
  (random, values) => {
    for (let i = 0; i < values.length; i++) values[i] = random.normal() * deviation
  }

export const uniform =
  (least: number, most: number): Initialiser =>
  (random, values) => {
    for (let i = 0; i < values.length; i++) values[i] = least + (most - least) * random.uniform()
  }

/** ln A with A uniform in 1 .. 16. */
export const logDecay: Initialiser = (random, values) => {
  for (let i = 0; i < values.length; i++) values[i] = Math.log(1 + 15 * random.uniform())
}

/** The inverse softplus of a time step, log-uniform in 0.001 .. 0.1 and at least 0.0001. */
export const timeStepBias: Initialiser = (random, values) => {
  const [low, high] = [Math.log(0.001), Math.log(0.1)]
  for (let i = 0; i < values.length; i++) {
    const step = Math.max(1e-4, Math.exp(low + (high - low) * random.uniform()))
    values[i] = step + Math.log(-Math.expm1(-step))
  }
}

/** A step number that no training step has: the address of initial values. */
const INITIAL = 0xffffffff

/** 32-bit FNV-1a. */
function hash(name: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193)
  return h >>> 0
}

export const streamOf = (seed: number, parameter: string): Stream => new Stream(seed, hash(parameter), INITIAL)
