import { UserError } from '../config/errors.ts'
import type { ModelConfig } from '../model/config.ts'
import { parameterSpecs } from '../model/parameters.ts'
import { arcee } from './arcee.ts'
import { nemotronH } from './nemotron_h.ts'

/** The keys of a config.json. */
export type HfConfig = Readonly<Record<string, unknown>>

/** What a config.json says of a model beyond its own shape. */
export interface ConfigContext {
  /** Tokens in a training sequence. */
  readonly sequence: number
  readonly bos: number
  readonly eos: number
  readonly dtype: 'float32' | 'bfloat16'
}

/** A model class of Hugging Face transformers that computes what a halfbyte model computes, in both directions. */
export interface Architecture {
  /** As in `architectures` and `model_type` of config.json. */
  readonly name: string
  readonly modelType: string
  /** Why a model is not of this class, as the end of a sentence; undefined if it is. */
  refuses(model: ModelConfig): string | undefined
  config(model: ModelConfig, context: ConfigContext): HfConfig
  /** Name of a tensor in a checkpoint of this class, from the hub's name for nemotron_h, which halfbyte's parameters have. */
  tensorName(name: string): string
  /**
   * The model section of a run's config.
   * @throws UserError naming a key whose value halfbyte cannot train.
   */
  model(config: HfConfig): Omit<ModelConfig, 'activations' | 'bf16_blocks'>
}

/** In the order in which a model is offered to them. */
export const architectures: readonly Architecture[] = [nemotronH, arcee]

/** @throws UserError saying of each class why the model is not of it. */
export function architectureFor(model: ModelConfig): Architecture {
  const reasons: string[] = []
  for (const architecture of architectures) {
    const reason = architecture.refuses(model)
    if (reason === undefined) return architecture
    reasons.push(`${architecture.name} ${reason}`)
  }
  throw new UserError(`no Hugging Face architecture has this model: ${reasons.join(', ')}`)
}

/** A tensor of a checkpoint: rows `from` to `to` (along the first dimension) of a parameter. */
export interface CheckpointPart {
  readonly name: string
  readonly parameter: string
  readonly from: number
  readonly to: number
  readonly shape: readonly number[]
  /** The weight of a linear layer that a recipe may quantise: not the head's. */
  readonly linear: boolean
}

/** Parameters that are several tensors in a checkpoint: [name in place of the fused one, rows]. */
const fused: Readonly<Record<string, (model: ModelConfig) => readonly (readonly [name: string, rows: number])[]>> = {
  qkv_proj: ({ heads, kv_heads, head_dim }) => [
    ['q_proj', heads * head_dim],
    ['k_proj', kv_heads * head_dim],
    ['v_proj', kv_heads * head_dim],
  ],
}

/** Every tensor of a model's checkpoint, in the order of its parameters. */
export function checkpointParts(
  model: ModelConfig,
  { tensorName }: Pick<Architecture, 'tensorName'>,
): CheckpointPart[] {
  const { blocks, all } = parameterSpecs(model)
  const ruled = new Set(blocks.flatMap(({ parameters }) => parameters.filter(({ linear }) => linear)))
  return all.flatMap(spec => {
    const { name, shape } = spec
    const layer = name.split('.').at(-2)!
    let from = 0
    return (fused[layer]?.(model) ?? [[layer, shape[0]!] as const]).map(([part, rows]) => {
      const start = from
      from += rows
      const own = layer === part ? name : name.replace(`.${layer}.`, `.${part}.`)
      return {
        name: tensorName(own),
        parameter: name,
        from: start,
        to: from,
        shape: [rows, ...shape.slice(1)],
        linear: ruled.has(spec),
      }
    })
  })
}
