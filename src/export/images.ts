import { UserError } from '../config/errors.ts'
import { recipeOf } from '../config/rules.ts'
import type { RunConfig } from '../config/schema.ts'
import { fromBf16, toBf16 } from '../formats/bf16.ts'
import { formats } from '../formats/formats.ts'
import { amaxOf, limitsOf, type QuantizedMatrix, quantizeMatrix } from '../formats/quantize.ts'
import { linearShapes, parameterSpecs } from '../model/parameters.ts'
import type { FormatName, Quantized } from '../recipes/recipe.ts'
import { isQuantized, resolveRecipe } from '../recipes/resolve.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { floatPieces } from './hf.ts'
import type { Weights } from './weights.ts'

/**
 * The weights of linear layers as the forward pass of training reads them: the same codes, block scales and largest magnitude.
 *
 *   1. The FP32 weight is rounded to BF16, as training does between two steps, unless the recipe quantises it as it is.
 *   2. Its largest magnitude is found over the whole parameter. The fused projection of q, k and v has one, which its parts share.
 *   3. Blocks along the inputs, or square tiles, are quantised by src/formats/quantize.ts, byte-equal to the kernels of training.
 *
 * What a layer pads its outputs with, so that their number suits a recipe, is zero: it changes no scale and is not made here.
 * Source: docs/export.md, "Quantised layouts".
 */

/** A linear layer whose forward pass reads a quantised weight. */
export interface QuantisedLayer {
  /** As rules and records name it: `layers.3.mixer.in_proj`. */
  readonly linear: string
  readonly weight: Quantized
  /** How its input is quantised; undefined where it is not. */
  readonly input: Quantized | undefined
}

/** The layers that the run's recipe quantises in the last step before the checkpoint of `step`, by parameter. */
export function quantisedLayers(config: RunConfig, step: number): ReadonlyMap<string, QuantisedLayer> {
  const shapes = linearShapes(parameterSpecs(config.model))
  const depth = { blocks: config.model.pattern.length, sensitive: config.model.bf16_blocks }
  const resolved = resolveRecipe(recipeOf(config), shapes, depth, Math.max(0, step - 1), config.steps)
  const layers = new Map<string, QuantisedLayer>()
  for (const [i, { name }] of shapes.entries()) {
    const { fprop } = resolved[i]!
    if (!isQuantized(fprop.b)) continue
    if (fprop.hadamard) refuse(config, name, 'rotates the operands of its forward pass')
    if (fprop.b.round !== 'nearest') refuse(config, name, 'rounds its weights at random')
    if (fprop.b.outer === 'row') refuse(config, name, 'has an outer scale for each row of its weights')
    layers.set(`backbone.${name}.weight`, {
      linear: name,
      weight: fprop.b,
      input: isQuantized(fprop.a) ? fprop.a : undefined,
    })
  }
  return layers
}

function refuse({ recipe }: RunConfig, layer: string, what: string): never {
  throw new UserError(`recipe ${recipe} ${what} in ${layer}, which no quantised layout can say; --to hf writes floats`)
}

/** A quantised weight: [rows, cols], 4 bits an element, low nibble first, and a byte a block scale. */
export interface WeightImage {
  readonly format: FormatName
  readonly rows: number
  readonly cols: number
  readonly codes: Uint8Array
  /** [rows, cols / block] */
  readonly scales: Uint8Array
}

/** Rows `from` to `to` of an image. */
export function rowsOf({ format, cols, codes, scales }: WeightImage, from: number, to: number): WeightImage {
  const width = cols / 2
  const across = cols / formats[format].block
  return {
    format,
    rows: to - from,
    cols,
    codes: codes.subarray(from * width, to * width),
    scales: scales.subarray(from * across, to * across),
  }
}

/** Rows that are quantised at a time: a multiple of every square tile. */
const stripRows = 128

/** Images of the weights of a checkpoint, one held at a time. */
export class WeightImages {
  readonly #weights: Weights
  readonly #layers: ReadonlyMap<string, QuantisedLayer>
  readonly #amax = new Map<string, number>()
  #last: { readonly parameter: string; readonly image: WeightImage } | undefined

  constructor(weights: Weights, layers: ReadonlyMap<string, QuantisedLayer>) {
    this.#weights = weights
    this.#layers = layers
  }

  /** What training quantises in place of these weights. */
  #quantised(parameter: string, values: Float32Array): Float32Array {
    return this.#layers.get(parameter)!.weight.source ? values : fromBf16(toBf16(values))
  }

  /** Largest magnitude of a parameter as it is quantised. @throws UserError if a weight is not finite */
  amax(parameter: string): number {
    const known = this.#amax.get(parameter)
    if (known !== undefined) return known
    let amax = 0
    for (const piece of floatPieces(this.#weights, parameter, 0, sizeOf(this.#weights.shape(parameter)))) {
      const [largest, bad] = amaxOf(this.#quantised(parameter, piece)) as unknown as [number, number]
      if (bad) throw new UserError(`${parameter} has a value that is not finite`)
      amax = Math.max(amax, largest)
    }
    this.#amax.set(parameter, amax)
    return amax
  }

  /** What an outer scale is a share of: value = code * block scale * amax / bound; 1 in formats without one. */
  bound(parameter: string): number {
    return limitsOf(this.#layers.get(parameter)!.weight).bound
  }

  of(parameter: string): WeightImage {
    if (this.#last?.parameter === parameter) return this.#last.image
    const { weight } = this.#layers.get(parameter)!
    const [rows, cols] = this.#weights.shape(parameter) as [number, number]
    const codes = new Uint8Array((rows * cols) / 2)
    const scales = new Uint8Array((rows * cols) / formats[weight.format].block)
    const amax = Float32Array.of(this.amax(parameter))
    for (let row = 0; row < rows; row += stripRows) {
      const height = Math.min(stripRows, rows - row)
      const values = this.#quantised(parameter, this.#weights.read(parameter, row * cols, (row + height) * cols))
      const strip: QuantizedMatrix = quantizeMatrix(values, height, cols, { source: 'bf16', ...weight, amax })
      codes.set(strip.codes, (row * cols) / 2)
      scales.set(strip.scales as Uint8Array, (row * cols) / formats[weight.format].block)
    }
    const image = { format: weight.format, rows, cols, codes, scales }
    this.#last = { parameter, image }
    return image
  }
}
