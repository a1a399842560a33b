import type { Architecture, HfConfig } from './architectures.ts'
import { expect, expectThat, positiveOf, wholeOf } from './hf_keys.ts'

/**
 * ArceeForCausalLM: layers of attention with rotary positions and squared-ReLU FFN. A layer is two blocks, `*-`; rotated pairs are elements
 * i and i + head_dim / 2 on both sides.
 */

/** What a block's tensors are called within a layer: of the attention block (even) and of the FFN (odd). */
const inLayer = [
  { 'norm.': 'input_layernorm.', 'mixer.': 'self_attn.' },
  { 'norm.': 'post_attention_layernorm.', 'mixer.': 'mlp.' },
] as const

const outside: Readonly<Record<string, string>> = {
  'backbone.embeddings.weight': 'model.embed_tokens.weight',
  'backbone.norm_f.weight': 'model.norm.weight',
}

/** The base of the rotation, where config.json has it: transformers 5 keeps it with the other parameters of the rotation. */
function ropeBase(config: HfConfig): number {
  const parameters = (config.rope_parameters ?? config.rope_scaling ?? {}) as HfConfig
  const type = parameters.rope_type ?? parameters.type ?? 'default'
  const partial = parameters.partial_rotary_factor ?? config.partial_rotary_factor ?? 1
  const key = config.rope_parameters === undefined ? 'rope_scaling' : 'rope_parameters'
  expectThat(type === 'default' && partial === 1, config, key, 'the default rotation of whole heads')
  return positiveOf({ ...config, ...parameters }, ['rope_theta'], 10000)
}

export const arcee: Architecture = {
  name: 'ArceeForCausalLM',
  modelType: 'arcee',
  refuses({ pattern, rope, heads, hidden }) {
    if (rope === false) return 'has rotary positions'
    if (!/^(\*-)+$/.test(pattern)) return 'is layers of attention and FFN, a pattern of *-*-'
    return hidden % heads === 0 ? undefined : `wants hidden (${hidden}) to be a multiple of heads (${heads})`
  },
  tensorName(name) {
    const [, block, rest] = /^backbone\.layers\.(\d+)\.(.*)$/.exec(name) ?? []
    if (block === undefined) return outside[name] ?? name
    const names = inLayer[Number(block) % 2]!
    const renamed = rest!.replace(/^(norm|mixer)\./, prefix => names[prefix as keyof typeof names])
    return `model.layers.${Math.floor(Number(block) / 2)}.${renamed}`
  },
  config: (model, { sequence, bos, eos, dtype }) => ({
    architectures: ['ArceeForCausalLM'],
    model_type: 'arcee',
    vocab_size: model.vocab,
    hidden_size: model.hidden,
    intermediate_size: model.ffn,
    num_hidden_layers: model.pattern.length / 2,
    num_attention_heads: model.heads,
    num_key_value_heads: model.kv_heads,
    head_dim: model.head_dim,
    hidden_act: 'relu2',
    max_position_embeddings: sequence,
    rope_theta: model.rope,
    rope_parameters: { rope_type: 'default', rope_theta: model.rope },
    rms_norm_eps: model.eps,
    initializer_range: model.init_std,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: false,
    bos_token_id: bos,
    eos_token_id: eos,
    torch_dtype: dtype,
  }),
  model(config) {
    expect(config, {
      attention_bias: [false],
      mlp_bias: [false],
      tie_word_embeddings: [false],
      hidden_act: ['relu2'],
    })
    const hidden = wholeOf(config, 'hidden_size')
    const heads = wholeOf(config, 'num_attention_heads')
    return {
      pattern: '*-'.repeat(wholeOf(config, 'num_hidden_layers')),
      hidden,
      ffn: wholeOf(config, 'intermediate_size'),
      heads,
      kv_heads: wholeOf(config, 'num_key_value_heads', 'num_attention_heads'),
      head_dim: wholeOf({ ...config, head_dim: config.head_dim ?? hidden / heads }, 'head_dim'),
      mamba_heads: 0,
      mamba_head_dim: 0,
      groups: 8,
      state: 128,
      conv: 4,
      chunk: 128,
      vocab: wholeOf(config, 'vocab_size'),
      rope: ropeBase(config),
      eps: positiveOf(config, ['rms_norm_eps'], 1e-5),
      init_std: positiveOf(config, ['initializer_range'], 0.02),
    }
  },
}
