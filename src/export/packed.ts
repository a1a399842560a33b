import { UserError } from '../config/errors.ts'
import { FLT_MAX } from '../formats/scales.ts'
import type { FormatName } from '../recipes/recipe.ts'
import type { TensorToWrite } from '../tensor/safetensors.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { inputAmax } from './activations.ts'
import type { CheckpointPart, HfConfig } from './architectures.ts'
import { bytesOf, type Checkpoint, json } from './folder.ts'
import { checkpointBase, type ExportDtype, type ExportedTokenizer, floatTensor } from './hf.ts'
import { quantisedLayers, rowsOf, type WeightImage, WeightImages } from './images.ts'
import type { ExportedRun } from './weights.ts'

/**
 * Checkpoints in the layout of Hugging Face whose linear layers are packed FP4: what compressed-tensors and ModelOpt have in common. Codes, low nibble
 * first, and block scales are stored as training has them, linear and without padding; the outer scale is stored as a divisor or a factor.
 * Source: docs/export.md, "Quantised layouts".
 */

/** The largest magnitudes of a layer's weight and input, as one number each may be stored. */
export interface OuterScales {
  /** value = code * block scale * amax / bound. Reads the whole weight: asked for when it is written. */
  readonly amax: () => number
  readonly bound: number
  /** Of the input; undefined where inputs are not quantised. */
  readonly input: number | undefined
}

/** amax / bound: what codes times block scales are multiplied by. */
export const multiplier = (amax: number, bound: number): number => Math.fround(amax / bound)

/** bound / amax: what they are divided by; finite, and 1 for a tensor of zeros. */
export const divisor = (amax: number, bound: number): number =>
  amax === 0 ? 1 : Math.min(Math.fround(bound / amax), FLT_MAX)

/** 448 * 6: of inputs, which consumers quantise themselves with plain NVFP4. */
export const inputBound = 2688

/** How one layout stores quantised layers. */
export interface PackedLayout {
  readonly name: string
  /** Formats that it has, the first being the one to recommend. */
  readonly formats: readonly FormatName[]
  /** Whether it can say that inputs are not quantised. */
  readonly weightOnly: boolean
  /** Tensors of a layer, by what takes the place of `weight` in its name. */
  tensors(
    format: FormatName,
    image: () => WeightImage,
    shape: readonly number[],
    scales: OuterScales,
  ): Readonly<Record<string, TensorToWrite>>
  /** What is added to config.json, and further files. @param ignore modules that stay floats. */
  config(
    format: FormatName,
    inputs: boolean,
    ignore: readonly string[],
  ): { config: HfConfig; files: Readonly<Record<string, string>> }
}

/** What became of the linear layers, and bytes of the quantised ones here and in BF16. */
export interface PackedSummary {
  readonly format: FormatName
  /** Linear layers as a recipe counts them. */
  readonly quantised: number
  readonly linears: number
  /** Whether scales of inputs are there. */
  readonly inputs: boolean
  readonly quantisedBytes: number
  readonly bf16Bytes: number
}

export const scalar = (value: () => number, shape: readonly number[]): TensorToWrite => ({
  dtype: 'F32',
  shape,
  data: () => Float32Array.of(value()),
})

const moduleOf = (tensor: string): string => tensor.replace(/\.weight$/, '')

/** The quantised layers of a run that are in one of these formats. */
function layersIn(run: ExportedRun, formats: readonly FormatName[], layout: string) {
  const all = quantisedLayers(run.config, run.step)
  const layers = new Map([...all].filter(([, { weight }]) => formats.includes(weight.format)))
  const found = [...new Set([...all.values()].map(({ weight }) => weight.format))]
  if (layers.size > 0) return layers
  throw new UserError(
    `recipe ${run.config.recipe} at step ${run.step} reads ${found.length === 0 ? 'no weights quantised' : `weights in ${found.join(', ')}`} in its forward pass, and --to ${layout} wants ${formats.join(' or ')}; --to hf writes floats`,
  )
}

/** The one format of these layers. @throws UserError if there are two */
function oneFormat(layers: ReturnType<typeof layersIn>, layout: string): FormatName {
  const [format, other] = [...new Set([...layers.values()].map(({ weight }) => weight.format))]
  if (other !== undefined)
    throw new UserError(
      `the run has weights in ${format} and in ${other}, and --to ${layout} has one format for all; --to gguf has both`,
    )
  return format!
}

/** Whether every layer quantises its inputs in the same format and their largest magnitudes are known where they are needed. */
function hasInputs(
  layers: ReturnType<typeof layersIn>,
  amax: ReadonlyMap<string, number>,
  format: FormatName,
): boolean {
  return [...layers.values()].every(({ linear, input }) => input?.format === format && amax.has(linear))
}

/** @throws UserError if the recipe's forward pass has no weights in a format that the layout has */
export function packedCheckpoint(
  run: ExportedRun,
  tokenizer: ExportedTokenizer,
  dtype: ExportDtype,
  layout: PackedLayout,
): { checkpoint: Checkpoint; summary: PackedSummary } {
  const layers = layersIn(run, layout.formats, layout.name)
  const format = oneFormat(layers, layout.name)
  const { parts, config, files } = checkpointBase(run, tokenizer, dtype)
  const known = inputAmax(run)
  const inputs = hasInputs(layers, known, format)
  if (!inputs && !layout.weightOnly)
    throw new UserError(
      `--to ${layout.name} wants the largest magnitudes of inputs, which ${run.directory} has not recorded by step ${run.step} for every layer, because it was not trained or its inputs are not in ${format}; --to compressed-tensors can do without`,
    )
  const images = new WeightImages(run.weights, layers)
  const packed = (part: CheckpointPart): [string, TensorToWrite][] => {
    const { parameter } = part
    const scales = {
      amax: () => images.amax(parameter),
      bound: images.bound(parameter),
      input: inputs ? known.get(layers.get(parameter)!.linear) : undefined,
    }
    const tensors = layout.tensors(format, () => rowsOf(images.of(parameter), part.from, part.to), part.shape, scales)
    return Object.entries(tensors).map(([suffix, tensor]) => [`${moduleOf(part.name)}.${suffix}`, tensor])
  }
  const quantised = parts.filter(({ parameter }) => layers.has(parameter))
  const ignore = parts.filter(({ parameter, shape }) => shape.length > 1 && !layers.has(parameter))
  const tensors = new Map<string, TensorToWrite>()
  let quantisedBytes = 0
  for (const part of parts) {
    if (!layers.has(part.parameter)) {
      tensors.set(part.name, floatTensor(run.weights, part, dtype))
      continue
    }
    for (const [name, tensor] of packed(part)) {
      tensors.set(name, tensor)
      quantisedBytes += bytesOf(tensor)
    }
  }
  const added = layout.config(
    format,
    inputs,
    ignore.map(({ name }) => moduleOf(name)),
  )
  return {
    checkpoint: { tensors, files: { 'config.json': json({ ...config, ...added.config }), ...added.files, ...files } },
    summary: {
      format,
      quantised: layers.size,
      linears: new Set(parts.filter(({ linear }) => linear).map(({ parameter }) => parameter)).size,
      inputs,
      quantisedBytes,
      bf16Bytes: quantised.reduce((sum, { shape }) => sum + 2 * sizeOf(shape), 0),
    },
  }
}
