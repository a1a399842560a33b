import { UserError } from '../config/errors.ts'
import type { ModelConfig } from '../model/config.ts'
import { mambaSizes } from '../model/config.ts'
import type { GgufMetadata, GgufValue } from './gguf.ts'

/**
 * llama.cpp's names for what a model is made of. Blocks are numbered as layers there: in `nemotron_h` a block of the pattern is a layer, in
 * `arcee` a pair of attention and FFN is. Where llama.cpp wants other values, `values` makes them. Source: docs/export.md, "GGUF".
 */

/** How a parameter is stored. */
export interface GgufPlace {
  readonly name: string
  /** Another shape of the same elements; default: the parameter's own. */
  readonly shape?: readonly number[]
  /** Not a matrix of weights: always F32. */
  readonly exact?: true
  readonly values?: (value: number) => number
  /** Rows of a head, which llama.cpp rotates in neighbouring pairs: row 2i + j is row i + j * half here. */
  readonly headRows?: number
}

export interface GgufArchitecture {
  readonly name: string
  /** Why a model is not of it, as the end of a sentence; undefined if it is. */
  refuses(model: ModelConfig): string | undefined
  /** Weights within a block whose products llama.cpp does not multiply by the factor beside an NVFP4 tensor. */
  readonly unscaled: readonly string[]
  metadata(model: ModelConfig): GgufMetadata
  /** @param name within the block, such as `mixer.q_proj.weight`. */
  place(model: ModelConfig, block: number, name: string): GgufPlace
}

const u32 = (value: number): GgufValue => ({ type: 'u32', value })
const f32 = (value: number): GgufValue => ({ type: 'f32', value })

const decay = (logarithm: number): number => -Math.exp(logarithm)

/** Within a block, in both architectures. */
const attention = {
  'mixer.q_proj.weight': 'attn_q.weight',
  'mixer.k_proj.weight': 'attn_k.weight',
  'mixer.v_proj.weight': 'attn_v.weight',
  'mixer.o_proj.weight': 'attn_output.weight',
}
const ffn = { 'mixer.up_proj.weight': 'ffn_up.weight', 'mixer.down_proj.weight': 'ffn_down.weight' }

const nemotronH: GgufArchitecture = {
  name: 'nemotron_h',
  unscaled: [],
  refuses({ pattern, rope }) {
    if (rope !== false) return 'has no rotary positions'
    return pattern.includes('M') ? undefined : 'wants a Mamba-2 block'
  },
  metadata(model) {
    const of = (kind: string, value: number): GgufValue => ({
      type: 'i32[]',
      value: [...model.pattern].map(block => (block === kind ? value : 0)),
    })
    return {
      block_count: u32(model.pattern.length),
      feed_forward_length: of('-', model.ffn),
      // llama.cpp reads both of this architecture.
      'attention.layer_norm_epsilon': f32(model.eps),
      'attention.head_count': u32(model.heads || 1),
      'attention.head_count_kv': of('*', model.kv_heads),
      'attention.key_length': u32(model.head_dim || model.hidden),
      'attention.value_length': u32(model.head_dim || model.hidden),
      'ssm.conv_kernel': u32(model.conv),
      'ssm.inner_size': u32(mambaSizes(model).inner),
      'ssm.state_size': u32(model.state),
      'ssm.group_count': u32(model.groups),
      'ssm.time_step_rank': u32(model.mamba_heads),
      'rope.scaling.finetuned': { type: 'bool', value: false },
    }
  },
  place(model, block, name) {
    const { inner, conv } = mambaSizes(model)
    const places: Readonly<Record<string, Omit<GgufPlace, 'name'> & { of: string }>> = {
      'norm.weight': { of: 'attn_norm.weight', exact: true },
      'mixer.in_proj.weight': { of: 'ssm_in.weight' },
      'mixer.out_proj.weight': { of: 'ssm_out.weight' },
      'mixer.conv1d.weight': { of: 'ssm_conv1d.weight', shape: [conv, model.conv], exact: true },
      'mixer.conv1d.bias': { of: 'ssm_conv1d.bias', exact: true },
      'mixer.dt_bias': { of: 'ssm_dt.bias', exact: true },
      'mixer.A_log': { of: 'ssm_a', shape: [model.mamba_heads, 1], exact: true, values: decay },
      'mixer.D': { of: 'ssm_d', shape: [model.mamba_heads, 1], exact: true },
      'mixer.norm.weight': { of: 'ssm_norm.weight', shape: [model.groups, inner / model.groups], exact: true },
      ...Object.fromEntries(Object.entries({ ...attention, ...ffn }).map(([own, of]) => [own, { of }])),
    }
    const { of, ...place } = places[name]!
    return { name: `blk.${block}.${of}`, ...place }
  },
}

/** llama.cpp always rotates here; without rotary positions the angles are scaled to nothing. */
const noRotation: GgufMetadata = {
  'rope.scaling.type': { type: 'string', value: 'linear' },
  'rope.scaling.factor': f32(1e30),
}

const arcee: GgufArchitecture = {
  name: 'arcee',
  unscaled: Object.keys(ffn),
  refuses: ({ pattern }) =>
    /^(\*-)+$/.test(pattern) ? undefined : 'is layers of attention and FFN, a pattern of *-*-',
  metadata: model => ({
    block_count: u32(model.pattern.length / 2),
    feed_forward_length: u32(model.ffn),
    'attention.head_count': u32(model.heads),
    'attention.head_count_kv': u32(model.kv_heads),
    'attention.key_length': u32(model.head_dim),
    'attention.value_length': u32(model.head_dim),
    'rope.dimension_count': u32(model.head_dim),
    'rope.freq_base': f32(model.rope || 10000),
    ...(model.rope === false && noRotation),
  }),
  place(model, block, name) {
    const norm = block % 2 === 0 ? 'attn_norm.weight' : 'ffn_norm.weight'
    const names: Readonly<Record<string, string>> = { ...attention, ...ffn, 'norm.weight': norm }
    const rotated = model.rope !== false && /^mixer\.[qk]_proj\.weight$/.test(name)
    return {
      name: `blk.${Math.floor(block / 2)}.${names[name]}`,
      ...(name === 'norm.weight' && { exact: true }),
      ...(rotated && { headRows: model.head_dim }),
    }
  },
}

const architectures: readonly GgufArchitecture[] = [nemotronH, arcee]

/** @throws UserError saying of each architecture why the model is not of it. */
export function ggufArchitectureFor(model: ModelConfig): GgufArchitecture {
  const found = architectures.find(({ refuses }) => refuses(model) === undefined)
  if (found) return found
  const reasons = architectures.map(({ name, refuses }) => `${name} ${refuses(model)}`)
  throw new UserError(`no architecture of llama.cpp has this model: ${reasons.join(', ')}`)
}

const outside: Readonly<Record<string, GgufPlace>> = {
  'backbone.embeddings.weight': { name: 'token_embd.weight' },
  'backbone.norm_f.weight': { name: 'output_norm.weight', exact: true },
  'lm_head.weight': { name: 'output.weight' },
}

/** Where a tensor of the hub's name goes. */
export function ggufPlace(architecture: GgufArchitecture, model: ModelConfig, name: string): GgufPlace {
  const [, block, rest] = /^backbone\.layers\.(\d+)\.(.*)$/.exec(name) ?? []
  return block === undefined ? outside[name]! : architecture.place(model, Number(block), rest!)
}

/** What all architectures have. */
export const commonMetadata = (model: ModelConfig, sequence: number): GgufMetadata => ({
  context_length: u32(sequence),
  embedding_length: u32(model.hidden),
  vocab_size: u32(model.vocab),
  'attention.layer_norm_rms_epsilon': f32(model.eps),
})
