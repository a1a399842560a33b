import { Stream } from '../formats/philox.ts'
import { sizeOf } from '../tensor/tensor.ts'
import type { ParameterSpec } from './blocks/block.ts'

/**
 * Initial values, as Megatron's pretraining (docs/numerics.md, "Initialisation"). Each parameter reads its own random stream,
 * addressed by its name: the same weights whatever the recipe, the backend or the other parameters.
 */

/**
 * Fills `values` from `random`, of which each value takes one word, or none takes any: a range of a parameter that begins at a multiple of four
 * can be drawn on its own.
 */
export type Initialiser = (random: Stream, values: Float32Array) => void

export const ones: Initialiser = (_, values) => values.fill(1)

export const normal =
  (deviation: number): Initialiser =>
  (random, values) =>
    random.normals(values, deviation)

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

/** @param element of the parameter, from which values are drawn: a multiple of 4. */
export const streamOf = (seed: number, parameter: string, element = 0): Stream =>
  new Stream(seed, hash(parameter), INITIAL, element / 4)

/** A range of a parameter's elements. */
export interface Piece {
  /** Which of the model's parameters. */
  readonly index: number
  readonly start: number
  readonly size: number
}

/** Elements of the largest piece: a multiple of 4, and few enough that memory for one costs nothing. */
export const pieceSize = 2 ** 20

/** Pieces of all parameters, in order. */
export function* piecesOf(specs: readonly Pick<ParameterSpec, 'shape'>[]): Generator<Piece, undefined> {
  for (const [index, { shape }] of specs.entries()) {
    const size = sizeOf(shape)
    for (let start = 0; start < size; start += pieceSize)
      yield { index, start, size: Math.min(pieceSize, size - start) }
  }
}

/** The initial values of a range of parameters. @param values receives them. */
export function drawPiece(
  specs: readonly ParameterSpec[],
  seed: number,
  { index, start, size }: Piece,
  values: Float32Array = new Float32Array(size),
): Float32Array {
  const { name, initialise } = specs[index]!
  initialise(streamOf(seed, name, start), values)
  return values
}
