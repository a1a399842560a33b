import { toBf16 } from '../formats/bf16.ts'
import { formats } from '../formats/formats.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { inputAmax } from './activations.ts'
import { type CheckpointPart, checkpointParts } from './architectures.ts'
import { type GgufMetadata, type GgufTensor, type GgufType, ggufBytes } from './gguf.ts'
import { type BlockType, fits, ggufBlocks, isBlockType } from './gguf_blocks.ts'
import { commonMetadata, type GgufArchitecture, type GgufPlace, ggufArchitectureFor, ggufPlace } from './gguf_model.ts'
import { tokenizerMetadata } from './gguf_tokenizer.ts'
import type { ExportDtype, ExportedTokenizer } from './hf.ts'
import { type QuantisedLayer, quantisedLayers, rowsOf, type WeightImage, WeightImages } from './images.ts'
import { inputBound, multiplier, type PackedSummary } from './packed.ts'
import type { ExportedRun, Weights } from './weights.ts'

/** A run as one GGUF file: layers whose forward pass reads NVFP4 or MXFP4 in ggml's blocks of them, the rest in BF16 or F32. */

/** Rows at a time: about 4 MiB of FP32, or whole heads. */
const rowsAtOnce = (cols: number, headRows = 1): number => Math.max(1, Math.floor(2 ** 20 / cols / headRows)) * headRows

/** Rows of bytes, those of each head in the order of neighbouring pairs. */
function permuted(bytes: Uint8Array, rowBytes: number, headRows: number): Uint8Array {
  const turned = new Uint8Array(bytes.length)
  for (let row = 0; row < bytes.length / rowBytes; row++) {
    const within = row % headRows
    const source = row - within + (within >> 1) + (within & 1) * (headRows / 2)
    turned.set(bytes.subarray(source * rowBytes, (source + 1) * rowBytes), row * rowBytes)
  }
  return turned
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

const ordered = (bytes: Uint8Array, rows: number, headRows: number | undefined): Uint8Array =>
  headRows === undefined ? bytes : permuted(bytes, bytes.length / rows, headRows)

/** Rows `from` to `to` in strips that do not cut a head. */
function* strips(from: number, to: number, step: number): Generator<[number, number]> {
  for (let row = from; row < to; row += step) yield [row, Math.min(row + step, to)]
}

function floatTensor(weights: Weights, part: CheckpointPart, place: GgufPlace, dtype: ExportDtype): GgufTensor {
  const { parameter, from, to } = part
  const { name, shape = part.shape, values, headRows } = place
  const cols = sizeOf(part.shape.slice(1))
  const type = place.exact ? 'f32' : dtype
  return {
    name,
    type,
    shape,
    *data() {
      for (const [first, end] of strips(from, to, rowsAtOnce(cols, headRows))) {
        const read = weights.read(parameter, first * cols, end * cols)
        const floats = values ? read.map(values) : read
        yield ordered(bytesOf(type === 'bf16' ? toBf16(floats) : floats), end - first, headRows)
      }
    },
  }
}

function blockTensor(image: () => WeightImage, part: CheckpointPart, place: GgufPlace, type: BlockType): GgufTensor {
  const { from, to } = part
  return {
    name: place.name,
    type,
    shape: part.shape,
    *data() {
      for (const [first, end] of strips(from, to, rowsAtOnce(part.shape[1]!, place.headRows)))
        yield ordered(ggufBlocks(rowsOf(image(), first, end), type), end - first, place.headRows)
    },
  }
}

const scaleTensor = (name: string, value: () => number): GgufTensor => ({
  name,
  type: 'f32',
  shape: [1],
  data: () => [bytesOf(Float32Array.of(value()))],
})

/** llama.cpp's number for what most tensors of a file are. */
const fileTypes: Readonly<Record<GgufType, number>> = { f32: 0, bf16: 32, mxfp4: 38, nvfp4: 39 }

export interface GgufFile {
  readonly metadata: GgufMetadata
  readonly tensors: readonly GgufTensor[]
  readonly packed: PackedSummary | undefined
}

/** Why a layer cannot be in blocks of its format, or undefined. */
function unfit(
  { name, unscaled }: GgufArchitecture,
  parameter: string,
  format: BlockType,
  cols: number,
): string | undefined {
  if (!fits(format, cols)) return `GGUF's blocks of ${format} do not divide ${cols} inputs`
  const weight = parameter.replace(/^backbone\.layers\.\d+\./, '')
  return formats[format].tensorScale && unscaled.includes(weight)
    ? `llama.cpp's ${name} has no scale beside a tensor in ${format} there`
    : undefined
}

/** Which layers become blocks; those that cannot stay floats and are noted. */
function blockLayers(
  run: ExportedRun,
  architecture: GgufArchitecture,
  note: (sentence: string) => void,
): Map<string, [QuantisedLayer, BlockType]> {
  const layers = new Map<string, [QuantisedLayer, BlockType]>()
  const left = new Map<string, string[]>()
  for (const [parameter, layer] of quantisedLayers(run.config, run.step)) {
    const { format } = layer.weight
    if (!isBlockType(format)) continue
    const reason = unfit(architecture, parameter, format, run.weights.shape(parameter)[1]!)
    if (reason === undefined) layers.set(parameter, [layer, format])
    else left.set(reason, [...(left.get(reason) ?? []), layer.linear])
  }
  for (const [reason, names] of left)
    note(`${names.length} layer${names.length === 1 ? '' : 's'}, ${names[0]} the first, stay in floats: ${reason}`)
  return layers
}

/**
 * @param quantised whether layers that the recipe quantises become blocks; else all are floats.
 * @param note told in a sentence what is not as asked.
 * @throws UserError if no architecture has this model
 */
export function ggufFile(
  run: ExportedRun,
  tokenizer: ExportedTokenizer,
  { dtype, quantised }: { readonly dtype: ExportDtype; readonly quantised: boolean },
  note: (sentence: string) => void,
): GgufFile {
  const { model, data, name } = run.config
  const architecture = ggufArchitectureFor(model)
  // Parts under the hub's names for nemotron_h, which the table of places knows.
  const parts = checkpointParts(model, { tensorName: name => name })
  const layers = quantised ? blockLayers(run, architecture, note) : new Map<string, [QuantisedLayer, BlockType]>()
  const images = new WeightImages(run.weights, new Map([...layers].map(([parameter, [layer]]) => [parameter, layer])))
  const known = inputAmax(run)
  const blocks: GgufTensor[] = []
  let bf16Bytes = 0
  const tensors = parts.flatMap((part): GgufTensor[] => {
    const { parameter } = part
    const place = ggufPlace(architecture, model, part.name)
    const found = layers.get(parameter)
    if (!found) return [floatTensor(run.weights, part, place, dtype)]
    const [{ linear, input }, type] = found
    const tensor = blockTensor(() => images.of(parameter), part, place, type)
    blocks.push(tensor)
    bf16Bytes += 2 * sizeOf(part.shape)
    if (!formats[type].tensorScale) return [tensor]
    const amax = input?.format === type ? known.get(linear) : undefined
    const beside = (suffix: string) => place.name.replace(/weight$/, suffix)
    return [
      tensor,
      scaleTensor(beside('scale'), () => multiplier(images.amax(parameter), images.bound(parameter))),
      ...(amax === undefined ? [] : [scaleTensor(beside('input_scale'), () => multiplier(amax, inputBound))]),
    ]
  })
  const most = blocks[0]?.type ?? dtype
  const own = { ...commonMetadata(model, data.sequence), ...architecture.metadata(model) }
  return {
    metadata: {
      'general.architecture': { type: 'string', value: architecture.name },
      'general.type': { type: 'string', value: 'model' },
      'general.name': { type: 'string', value: name },
      'general.file_type': { type: 'u32', value: fileTypes[most] },
      'general.quantization_version': { type: 'u32', value: 2 },
      ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`${architecture.name}.${key}`, value])),
      ...tokenizerMetadata(tokenizer, model.vocab, note),
    },
    tensors,
    packed:
      blocks.length === 0
        ? undefined
        : {
            format: [...layers.values()][0]![0].weight.format,
            quantised: layers.size,
            linears: new Set(parts.filter(({ linear }) => linear).map(({ parameter }) => parameter)).size,
            inputs: [...layers.values()].every(([{ linear }]) => known.has(linear)),
            quantisedBytes: blocks.reduce((sum, tensor) => sum + ggufBytes(tensor), 0),
            bf16Bytes,
          },
  }
}
